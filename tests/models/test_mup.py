"""muP's coordinate check on two widths, for the families that bench/mup_check.py measures on four."""

import pytest

from bench.mup_check import moves
from llmkit import config
from llmkit.errors import ConfigError
from llmkit.models import encdec


@pytest.mark.slow
@pytest.mark.parametrize("family", ["modernbert", "t5", "bart"])
def test_steps_move_a_wide_net_as_far_as_a_narrow_one(family):
    with_mup, without = (
        [wide / narrow for narrow, wide in zip(*(moves(family, w, mup, 0) for w in (64, 256)), strict=True)]
        for mup in (True, False)
    )
    assert all(0.7 < ratio < 1.3 for ratio in with_mup)
    assert max(without) > 1.8


def test_the_original_transformer_has_no_mup():
    with pytest.raises(ConfigError, match="mup_width"):
        config.resolve(encdec.Settings, {"name": "encdec", "style": "transformer", "mup_width": 64})
