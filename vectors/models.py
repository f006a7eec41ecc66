"""What exists: foundations, vectors and their versions, files, blobs, uploads."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from vectors.leases import LeasedJob, WorkerBeat
from vectors.querysets import FoundationQuerySet, VectorQuerySet, VersionQuerySet

__all__ = [
    "AccessRequest",
    "Blob",
    "Claim",
    "FormerName",
    "Foundation",
    "Grant",
    "Inspection",
    "Like",
    "Ref",
    "RepositoryFile",
    "Sketch",
    "Upload",
    "UploadPart",
    "Vector",
    "Version",
    "WorkerBeat",
]


class Form(models.TextChoices):
    FULL = "full", _("full checkpoint")
    DELTA = "delta", _("delta")
    LORA = "lora", _("LoRA")


class Blob(models.Model):
    """Bytes under their SHA-256 in storage. Immutable; shared by every file that has them."""

    sha256 = models.CharField(primary_key=True, max_length=64)
    size = models.BigIntegerField()
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256


class Repository(models.Model):
    """What foundations and vectors share: a ``namespace/name``, a card, and how they are found."""

    namespace = models.CharField(max_length=96)
    name = models.CharField(max_length=96)
    title = models.CharField(max_length=120, blank=True)
    summary = models.CharField(max_length=200, blank=True)
    license = models.CharField(max_length=60, blank=True)
    pipeline_tag = models.CharField(max_length=60, blank=True)
    languages = models.CharField(max_length=200, blank=True)  # " en fr ", so that " en " is found
    tags = models.JSONField(default=list, blank=True)
    card = models.TextField(blank=True)
    card_html = models.TextField(blank=True)
    card_renderer = models.PositiveSmallIntegerField(default=0)  # that drew it: cards.RENDERER
    search_text = models.TextField(blank=True)
    equips = models.PositiveIntegerField(default=0)
    likes = models.PositiveIntegerField(default=0)
    downloads = models.PositiveIntegerField(default=0)
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True

    @property
    def repo_id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def label(self) -> str:
        return self.title or self.name

    @property
    def language_list(self) -> list[str]:
        return self.languages.split()

    def get_absolute_url(self) -> str:
        return reverse("repo", args=[self.namespace, self.name])

    def __str__(self) -> str:
        return self.repo_id


class Foundation(Repository):
    """A checkpoint other people fine-tune, known by the fingerprint of its tensors.

    ``manifest`` maps tensor names to [dtype, shape, Σθ²]: enough to check a fit and to measure
    the size of a delta without reading the weights again.
    """

    fingerprint = models.CharField(max_length=64, unique=True)
    architecture = models.CharField(max_length=120, blank=True)
    parameters = models.BigIntegerField()
    nbytes = models.BigIntegerField()
    dtype = models.CharField(max_length=10)
    manifest = models.JSONField()
    sigil = models.TextField(blank=True)
    commit = models.CharField(max_length=40, blank=True)
    added_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects = FoundationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["namespace", "name"], name="foundation_repo_id")
        ]


class Visibility(models.TextChoices):
    PUBLIC = "public", _("public")
    PRIVATE = "private", _("private")


class Access(models.TextChoices):
    """What it takes to read a vector that one may see."""

    OPEN = "open", _("open to everyone")
    AUTO = "auto", _("open to everyone who signs in and asks")
    MANUAL = "manual", _("open to those the owner lets in")
    PAID = "paid", _("for sale")


class Vector(Repository):
    """An ability somebody taught a foundation. Its content lives in immutable versions.

    ``visibility`` says who sees that it exists, ``access`` what it takes to read and equip it
    (a ``Grant``, unless it is open); ``vectors.access`` answers both.
    """

    visibility = models.CharField(
        max_length=8, choices=Visibility, default=Visibility.PUBLIC, db_default=Visibility.PUBLIC
    )
    access = models.CharField(
        max_length=8, choices=Access, default=Access.OPEN, db_default=Access.OPEN
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="vectors"
    )
    foundation = models.ForeignKey(Foundation, on_delete=models.PROTECT, related_name="vectors")
    current = models.ForeignKey(
        "Version", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    cover = models.ForeignKey(
        Blob, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    cover_small = models.ForeignKey(
        Blob, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    objects = VectorQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["namespace", "name"], name="vector_repo_id")]
        indexes = [
            models.Index(fields=["-created"], name="vector_newest"),
            models.Index(fields=["-equips"], name="vector_most_equipped"),
            models.Index(fields=["-likes"], name="vector_most_liked"),
            models.Index(fields=["-downloads"], name="vector_most_downloaded"),
        ]


class FormerName(models.Model):
    """An id that a vector had before it was renamed. It leads to the vector until its owner
    publishes another there; nobody else can, because it begins with the owner's name."""

    vector = models.ForeignKey(Vector, on_delete=models.CASCADE, related_name="former_names")
    namespace = models.CharField(max_length=96)
    name = models.CharField(max_length=96)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["namespace", "name"], name="former_name_once")
        ]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Claim(models.Model):
    """A repository id that a client has created and in which nothing is published yet.

    It ends when its first version is published: the vector takes over what it says.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="claims"
    )
    namespace = models.CharField(max_length=96)
    name = models.CharField(max_length=96)
    visibility = models.CharField(max_length=8, choices=Visibility, default=Visibility.PUBLIC)
    access = models.CharField(max_length=8, choices=Access, default=Access.OPEN)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["namespace", "name"], name="claim_repo_id")]

    @property
    def repo_id(self) -> str:
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return self.repo_id


class Version(models.Model):
    """One immutable state of a vector.

        uploading ─▶ received ─▶ inspecting ─▶ ready ─▶ published ⇄ withdrawn
            │            ├───────────┴───────▶ refused
            └────────────┴─▶ (discarded: the row is deleted)

    A draft (everything before ``published``) belongs to its owner and has no vector yet, unless
    it is meant as the next version of an existing one. ``draft`` holds what the wizard collected.
    One that a client pushed has its ``commit`` and ``message`` from the start, belongs to a
    ``claim`` while its repository has no vector, and publishes itself when it fits.

    A withdrawn version is off the shelves since ``withdrawn``. Who had a grant by then keeps it.
    """

    class State(models.TextChoices):
        UPLOADING = "uploading", _("uploading")
        RECEIVED = "received", _("uploaded")
        INSPECTING = "inspecting", _("being inspected")
        READY = "ready", _("ready to publish")
        REFUSED = "refused", _("refused")
        PUBLISHED = "published", _("published")
        WITHDRAWN = "withdrawn", _("withdrawn")

    ARROWS: dict[str, frozenset[str]] = {
        State.UPLOADING: frozenset({State.RECEIVED}),
        State.RECEIVED: frozenset({State.INSPECTING, State.REFUSED}),
        State.INSPECTING: frozenset({State.READY, State.REFUSED, State.RECEIVED}),
        State.READY: frozenset({State.PUBLISHED, State.INSPECTING}),
        State.REFUSED: frozenset(),
        State.PUBLISHED: frozenset({State.WITHDRAWN}),
        State.WITHDRAWN: frozenset({State.PUBLISHED}),
    }

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="versions"
    )
    vector = models.ForeignKey(
        Vector, null=True, blank=True, on_delete=models.CASCADE, related_name="versions"
    )
    claim = models.ForeignKey(
        Claim, null=True, blank=True, on_delete=models.CASCADE, related_name="versions"
    )
    number = models.PositiveIntegerField(null=True, blank=True)
    commit = models.CharField(max_length=40, blank=True, db_index=True)
    message = models.CharField(max_length=200, blank=True)
    foundation = models.ForeignKey(
        Foundation, null=True, blank=True, on_delete=models.PROTECT, related_name="versions"
    )
    state = models.CharField(max_length=12, choices=State, default=State.UPLOADING)
    form = models.CharField(max_length=8, choices=Form, blank=True)
    digest = models.CharField(max_length=64, blank=True, db_index=True)
    nbytes = models.BigIntegerField(default=0)
    draft = models.JSONField(default=dict, blank=True)
    card = models.TextField(blank=True)
    verdict = models.JSONField(default=dict, blank=True)
    layers = models.JSONField(default=list, blank=True)
    sigil = models.TextField(blank=True)
    abilities = models.JSONField(default=list, blank=True)
    examples = models.JSONField(default=list, blank=True)
    refusal = models.JSONField(default=dict, blank=True)
    changes = models.CharField(max_length=200, blank=True)
    created = models.DateTimeField(auto_now_add=True)
    published = models.DateTimeField(null=True, blank=True)
    withdrawn = models.DateTimeField(null=True, blank=True)

    objects = VersionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["vector", "number"],
                condition=Q(number__isnull=False),
                name="version_number_once",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["published", "withdrawn"])
                | Q(vector__isnull=False, number__isnull=False, foundation__isnull=False)
                & ~Q(digest=""),
                name="published_version_is_whole",
            ),
        ]

    @property
    def label(self) -> str:
        return f"{self.vector} v{self.number}" if self.vector else f"draft {self.pk}"

    @property
    def is_draft(self) -> bool:
        return self.state not in (self.State.PUBLISHED, self.State.WITHDRAWN)

    @property
    def is_pushed(self) -> bool:
        """A draft that a client pushed: it publishes itself when it fits."""
        return self.is_draft and self.commit != ""

    @property
    def repo_id(self) -> str:
        """Where it is, or will be, a version; empty for a draft that has no name yet."""
        repository = self.vector or self.claim
        return repository.repo_id if repository else ""

    def __str__(self) -> str:
        return self.label


class RepositoryFile(models.Model):
    """A file of a foundation or of a version: a path and the blob that holds its bytes."""

    foundation = models.ForeignKey(
        Foundation, null=True, blank=True, on_delete=models.CASCADE, related_name="files"
    )
    version = models.ForeignKey(
        Version, null=True, blank=True, on_delete=models.CASCADE, related_name="files"
    )
    path = models.CharField(max_length=400)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="files")

    class Meta:
        ordering = ["path"]
        constraints = [
            models.CheckConstraint(
                condition=Q(foundation__isnull=False, version__isnull=True)
                | Q(foundation__isnull=True, version__isnull=False),
                name="file_of_one_thing",
            ),
            models.UniqueConstraint(
                fields=["foundation", "path"],
                condition=Q(foundation__isnull=False),
                name="foundation_path_once",
            ),
            models.UniqueConstraint(
                fields=["version", "path"],
                condition=Q(version__isnull=False),
                name="version_path_once",
            ),
        ]

    @property
    def size(self) -> int:
        return self.blob.size

    def __str__(self) -> str:
        return self.path


class Upload(models.Model):
    """One file on its way in: begin(size) → part URLs → complete(parts) → sealed under its hash.

    open ─complete─▶ received ─seal─▶ stored
      └───────abort / expiry────────▶ (row and bytes deleted)
    """

    class State(models.TextChoices):
        OPEN = "open", _("being sent")
        RECEIVED = "received", _("received")
        STORED = "stored", _("stored")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="uploads"
    )
    version = models.ForeignKey(
        Version, null=True, blank=True, on_delete=models.CASCADE, related_name="uploads"
    )
    path = models.CharField(max_length=400)
    size = models.BigIntegerField()
    part_size = models.BigIntegerField()
    expected_sha256 = models.CharField(max_length=64, blank=True)
    storage_handle = models.CharField(max_length=400, blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    blob = models.ForeignKey(
        Blob, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["version", "path"],
                condition=Q(version__isnull=False),
                name="upload_path_once",
            )
        ]

    @property
    def part_count(self) -> int:
        return max(1, -(-self.size // self.part_size))

    def part_length(self, number: int) -> int:
        """Bytes of part ``number`` (from 1)."""
        return min(self.part_size, self.size - (number - 1) * self.part_size)

    def __str__(self) -> str:
        return self.path


class UploadPart(models.Model):
    """A part that has arrived, with the ETag that storage gave it."""

    upload = models.ForeignKey(Upload, on_delete=models.CASCADE, related_name="parts")
    number = models.PositiveIntegerField()
    size = models.BigIntegerField()
    etag = models.CharField(max_length=128)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["upload", "number"], name="upload_part_once")
        ]


class Inspection(LeasedJob):
    """The job that looks at every tensor of an uploaded version and gives its verdict."""

    version = models.OneToOneField(Version, on_delete=models.CASCADE, related_name="inspection")

    def __str__(self) -> str:
        return f"inspection of {self.version}"


class Sketch(models.Model):
    """What is kept of a version to hold it against others: see ``vectors.tensorfile.sketch``.

    ``blob`` is the sketch itself; ``row`` the few bytes of it that are compared with the whole
    foundation's (``vectors.tensorfile.coarse``). ``entries`` counts those of the tensors the
    version changes, ``changed`` those of them that are not as they were.
    """

    version = models.OneToOneField(Version, on_delete=models.CASCADE, related_name="sketch")
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    format = models.PositiveSmallIntegerField()
    norm = models.FloatField()
    entries = models.BigIntegerField()
    changed = models.BigIntegerField()
    row = models.BinaryField()
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"sketch of {self.version}"


class Like(models.Model):
    """One user likes one vector."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="likes"
    )
    vector = models.ForeignKey(Vector, on_delete=models.CASCADE, related_name="liked_by")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "vector"], name="like_once")]


class Grant(models.Model):
    """The right of one user to read and equip one vector, whatever its versions."""

    class Origin(models.TextChoices):
        GIVEN = "given", _("given by the owner")
        ASKED = "asked", _("asked for")
        BOUGHT = "bought", _("bought")
        SWAPPED = "swapped", _("swapped")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="grants"
    )
    vector = models.ForeignKey(Vector, on_delete=models.CASCADE, related_name="grants")
    origin = models.CharField(max_length=8, choices=Origin, default=Origin.GIVEN)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "vector"], name="grant_once")]

    def __str__(self) -> str:
        return f"{self.user} may use {self.vector}"


class AccessRequest(models.Model):
    """Somebody asks to be let in.

    pending ⇄ accepted (with a grant) ⇄ rejected
    """

    class State(models.TextChoices):
        PENDING = "pending", _("waiting for an answer")
        ACCEPTED = "accepted", _("accepted")
        REJECTED = "rejected", _("rejected")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="access_requests"
    )
    vector = models.ForeignKey(Vector, on_delete=models.CASCADE, related_name="access_requests")
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    reason = models.CharField(max_length=400, blank=True)
    created = models.DateTimeField(auto_now_add=True)
    decided = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "vector"], name="access_request_once")
        ]


class Ref(models.Model):
    """A name that its owner gave to a version: a branch or a tag of the hub protocol."""

    class Kind(models.TextChoices):
        BRANCH = "branch", _("branch")
        TAG = "tag", _("tag")

    vector = models.ForeignKey(Vector, on_delete=models.CASCADE, related_name="refs")
    kind = models.CharField(max_length=6, choices=Kind)
    name = models.CharField(max_length=200)
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="refs")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["vector", "name"], name="ref_once")]

    def __str__(self) -> str:
        return self.name
