"""The three people of every test: who owns the thing, who may use it, and who may not."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.test import Client

PASSWORD = "correct horse battery"


def person(name: str) -> User:
    user = get_user_model().objects.create_user(name, f"{name}@example.org", PASSWORD)
    assert isinstance(user, User)
    return user


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def owner(db: None) -> User:
    return person("olive")


@pytest.fixture
def buyer(db: None) -> User:
    return person("bruno")


@pytest.fixture
def stranger(db: None) -> User:
    return person("sten")


@pytest.fixture
def owner_client(owner: User) -> Client:
    return client_of(owner)


@pytest.fixture
def buyer_client(buyer: User) -> Client:
    return client_of(buyer)


@pytest.fixture
def stranger_client(stranger: User) -> Client:
    return client_of(stranger)
