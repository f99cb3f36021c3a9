"""How many threads to compute with."""

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import machine  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_the_faster_number_of_threads_is_kept() -> None:
    before = torch.get_num_threads()
    try:
        chooser = machine.ThreadChooser(2)
        for _ in range(2 * machine.TRIAL_STEPS + 1):
            chooser.after_step(10.0 if torch.get_num_threads() == 2 else 1.0)
        assert torch.get_num_threads() == 1
        chooser.next_trial = 0.0
        for _ in range(2 * machine.TRIAL_STEPS + 1):
            chooser.after_step(0.6 if torch.get_num_threads() == 2 else 1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
