from django.db import migrations

from vectors.search import create_index


class Migration(migrations.Migration):
    dependencies = [("vectors", "0001_initial")]

    operations = [migrations.RunPython(create_index, migrations.RunPython.noop)]
