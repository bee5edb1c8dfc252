"""One file says what a cluster wants; the profile and every rule read it."""

import pytest
import yaml

from rlsubnet.config import SheetError
from rlsubnet.config.read import load_site
from rlsubnet.config.schema import Site


def test_the_example_says_every_key_and_its_default(repository, tmp_path):
    example = repository / "config" / "site.example.yaml"
    written = yaml.safe_load(example.read_text(encoding="utf-8"))
    assert list(written) == list(Site.model_fields)
    assert written == load_site(example) == load_site(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: me", "site.yaml, top level: unknown key 'acount' (did you mean 'account'?)"),
        ("partition: a b", "site.yaml, key partition: found 'a b', expected a text without spaces"),
        ("retries: -1", "site.yaml, key retries: expected a whole number of at least 0, found -1"),
        ("status_command: sstat", "site.yaml, key status_command:"),
        ("kinds: {train: {acount: me}}", "site.yaml, key kinds.train: unknown key 'acount'"),
        ("kinds: {trian: {qos: high}}", "key kinds.trian: unknown value 'trian' (did you"),
    ],
)
def test_a_mistake_in_the_site_file_is_named(tmp_path, text, message):
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SheetError) as error:
        load_site(tmp_path / "site.yaml")
    assert message in str(error.value)


def test_the_site_file_is_the_users_and_not_gits(repository):
    ignored = (repository / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "config/site.yaml" in ignored
