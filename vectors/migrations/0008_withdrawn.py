from django.db import migrations, models
from django.utils import timezone


def withdrawn_by_now(apps, _schema_editor):
    """When it was is not known: whoever has a grant today keeps what they have."""
    versions = apps.get_model("vectors", "Version").objects.filter(state="withdrawn")
    versions.update(withdrawn=timezone.now())


class Migration(migrations.Migration):
    dependencies = [
        ("vectors", "0007_former_name"),
    ]

    operations = [
        migrations.AddField(
            model_name="version",
            name="withdrawn",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.RunPython(withdrawn_by_now, migrations.RunPython.noop, elidable=True),
    ]
