"""How a message arrives: the Celery app, its tasks, and the VM host drivers."""
