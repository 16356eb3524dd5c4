import pytest

pytest.importorskip("verl")
pytestmark = pytest.mark.verl

import torch  # noqa: E402
from verl.plugin.platform import PlatformBase, PlatformRegistry  # noqa: E402

from verl_multiattempt.cpu.platform import PlatformCPU  # noqa: E402


def test_no_abstract_method_is_left() -> None:
    assert isinstance(PlatformCPU(), PlatformBase)


def test_current_device_moves_a_tensor_to_the_cpu() -> None:
    assert torch.ones(1).to(PlatformCPU().current_device()).device.type == "cpu"


def test_device_module_offers_what_verl_calls() -> None:
    module = PlatformCPU().device_module
    free, total = module.mem_get_info()
    assert 0 < free <= total
    assert 0 < module.memory_allocated() <= total
    assert 0 < module.max_memory_reserved() <= total
    module.empty_cache()
    module.synchronize()
    module.set_device(0)
    with module.stream(module.current_stream()):
        pass


def test_rng_state_of_device_module_round_trips() -> None:
    module = PlatformCPU().device_module
    state = module.get_rng_state()
    first = torch.rand(4)
    module.set_rng_state(state)
    assert torch.equal(first, torch.rand(4))


def test_manual_seed_seeds_torch() -> None:
    platform = PlatformCPU()
    platform.manual_seed(7)
    first = torch.rand(4)
    platform.manual_seed_all(7)
    assert torch.equal(first, torch.rand(4))


def test_workers_are_scheduled_by_the_declared_gpus() -> None:
    assert PlatformCPU().ray_resource_options(0.5) == {"num_gpus": 0.5}


def test_platform_does_not_register_itself_on_import() -> None:
    from verl_multiattempt import cpu

    assert (PlatformRegistry.get("cpu") is PlatformCPU) == cpu.is_active()
