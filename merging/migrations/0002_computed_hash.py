from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("merging", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="ComputedHash",
            fields=[
                ("etag", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("sha256", models.CharField(max_length=64)),
                ("size", models.BigIntegerField()),
                ("created", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
