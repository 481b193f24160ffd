"""How the property tests run: by what they find, never by how long a busy machine takes."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "headrace",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("headrace")
