from django.apps import AppConfig


class MarketplaceConfig(AppConfig):
    name = "marketplace"

    def ready(self) -> None:
        # `@shared_task` binds to the Celery app that exists: without this the site would
        # ring a default app on amqp://localhost instead of the configured broker.
        from marketplace import celery  # noqa: F401
