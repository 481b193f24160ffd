"""The quick start of the original, with the import changed.

Run it as it is (in memory), or with HEADRACE_URL=embedded:///tmp/headrace, or nats://localhost.
"""

import asyncio

from headrace import (
    Coordinator,
    CoordinatorConfig,
    TaskPriority,
)

# Create coordinator
coordinator = Coordinator(
    config=CoordinatorConfig(
        min_workers=2,
        max_workers=10,
        auto_scale=True,
    ),
)


# Register task handlers
@coordinator.handler("process_document")
async def process_document(data: dict) -> dict:
    # Process the document
    return {"processed": True, "pages": data["page_count"]}


@coordinator.handler("generate_summary")
async def generate_summary(data: dict) -> dict:
    # Generate summary
    return {"summary": "..."}


async def main() -> None:
    # Start the coordinator
    await coordinator.start()

    # Submit tasks
    result = await coordinator.submit(
        "process_document",
        {"document_id": "doc-123", "page_count": 10},
    )
    print(f"Document: {result}")

    # Or submit async and wait later
    task = await coordinator.submit_async(
        "generate_summary",
        {"text": "..."},
        priority=TaskPriority.HIGH,
    )
    result = await coordinator.wait_for(task.id)
    print(f"Summary: {result.status.value} {result.result}")

    # Stop gracefully
    await coordinator.stop()


if __name__ == "__main__":
    asyncio.run(main())
