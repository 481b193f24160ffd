// runcwrap: an OCI runtime that hands runc a spec this machine can satisfy.
// The machine's root lacks CAP_SYS_RESOURCE (not even in the bounding set), so
// `docker run --privileged` / `docker exec --privileged` ask runc for a
// capability it cannot set. Drops, from config.json / process.json, every
// capability that is not in our own permitted set, clamps oomScoreAdj and
// removes rlimits above our own hard limits; then execs the real runc.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// in the order of their numbers
var names = strings.Fields(`
	CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER
	SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
	SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
	MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
	CHECKPOINT_RESTORE`)

func have() map[string]bool {
	b, _ := os.ReadFile("/proc/self/status")
	m := map[string]bool{}
	for _, l := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(l, "CapPrm:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			for i, c := range names {
				if n&(1<<uint(i)) != 0 {
					m["CAP_"+c] = true
				}
			}
		}
	}
	return m
}

func fixProcess(p map[string]any) {
	ok := have()
	if caps, is := p["capabilities"].(map[string]any); is {
		for k, v := range caps {
			if l, is := v.([]any); is {
				out := []any{}
				for _, c := range l {
					if ok[c.(string)] {
						out = append(out, c)
					}
				}
				caps[k] = out
			}
		}
	}
	if v, is := p["oomScoreAdj"].(json.Number); is {
		b, _ := os.ReadFile("/proc/self/oom_score_adj")
		cur, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if n, _ := v.Int64(); int(n) < cur {
			p["oomScoreAdj"] = cur
		}
	}
	if _, is := p["rlimits"]; is {
		delete(p, "rlimits")
	}
}

func fix(file string, isConfig bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var m map[string]any
	if d.Decode(&m) != nil {
		return
	}
	if isConfig {
		if p, is := m["process"].(map[string]any); is {
			fixProcess(p)
		}
	} else {
		fixProcess(m)
	}
	if out, err := json.Marshal(m); err == nil {
		os.WriteFile(file, out, 0o600)
	}
}

func main() {
	a := os.Args[1:]
	var sub, bundle, process string
	for i, s := range a {
		switch {
		case sub == "" && (s == "create" || s == "run" || s == "exec" || s == "restore"):
			sub = s
		case (s == "--bundle" || s == "-b") && i+1 < len(a):
			bundle = a[i+1]
		case (s == "--process" || s == "-p") && i+1 < len(a):
			process = a[i+1]
		}
	}
	switch sub {
	case "create", "run", "restore":
		fix(filepath.Join(bundle, "config.json"), true)
	case "exec":
		if process != "" {
			fix(process, false)
		}
	}
	r := os.Getenv("REAL_RUNC")
	if r == "" {
		self, _ := os.Executable()
		r = filepath.Join(filepath.Dir(self), "runc.real")
	}
	fmt.Fprintln(os.Stderr, syscall.Exec(r, append([]string{r}, a...), os.Environ()))
	os.Exit(1)
}
