"""Names to classes: every registered plug-in loads, and a wrong name gets an answer."""

import subprocess
import sys

import pytest

from vapdata.captioners import CAPTIONERS
from vapdata.errors import CallError
from vapdata.filters import FILTERS
from vapdata.registry import did_you_mean, load
from vapdata.sources import SOURCES

HEADS = ("What:", "Reads:", "Writes:", "Default:", "Cost:", "Fails when:", "Source:")


@pytest.mark.parametrize(
    ("registry", "name"), [(registry, name) for registry in (SOURCES, FILTERS, CAPTIONERS) for name in registry]
)
def test_every_registered_plugin_loads_under_its_own_name_and_explains_itself(registry, name):
    plugin = load(registry, name, "plug-in")
    assert plugin.name == name
    assert plugin().name == name
    missing = [head for head in HEADS if head not in plugin.__doc__]
    assert not missing


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(CallError, match=r"'opnvid' is no source, did you mean 'openvid'\. Known: bridge, epic, folder, lerobot, miniature, openvid"):
        load(SOURCES, "opnvid", "source")


def test_a_name_that_resembles_nothing_gets_only_the_list():
    assert did_you_mean("zzz", SOURCES) == ""
    with pytest.raises(CallError, match=r"'zzz' is no filter\. Known: aesthetic"):
        load(FILTERS, "zzz", "filter")


def test_listing_the_registries_imports_nothing_heavy():
    code = (
        "import sys, vapdata.sources, vapdata.filters, vapdata.captioners, vapdata.registry; "
        "print([name for name in ('numpy', 'cv2', 'av', 'torch', 'scenedetect', 'pyarrow') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
