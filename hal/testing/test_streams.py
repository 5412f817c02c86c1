"""Order of work: streams and events."""

import torch

import hal


def test_a_side_stream_waits_and_is_waited_for(accelerator: hal.Accelerator) -> None:
    side = accelerator.Stream()
    x = torch.zeros(1024, device=accelerator.device())
    side.wait_stream(accelerator.current_stream())
    with accelerator.stream(side):
        x += 1
    accelerator.current_stream().wait_stream(side)
    x *= 2
    assert x.sum().item() == 2048


def test_an_event_orders_the_streams_that_wait_for_it(accelerator: hal.Accelerator) -> None:
    side, event = accelerator.Stream(), accelerator.Event()
    x = torch.zeros(1024, device=accelerator.device())
    side.wait_stream(accelerator.current_stream())
    with accelerator.stream(side):
        x += 1
        event.record(side)
    accelerator.current_stream().wait_event(event)
    x *= 2
    assert x.sum().item() == 2048
    again = accelerator.current_stream().record_event()
    again.wait(side)
    with accelerator.stream(side):
        x -= 1
    side.synchronize()
    assert x.sum().item() == 1024


def test_a_block_has_its_stream_and_leaves_the_one_before(accelerator: hal.Accelerator) -> None:
    before, side = accelerator.current_stream(), accelerator.Stream()
    with accelerator.stream(side):
        assert accelerator.current_stream() == side
        with accelerator.stream(None):
            assert accelerator.current_stream() == side, "None changes nothing"
    assert accelerator.current_stream() == before


def test_a_block_that_fails_leaves_the_stream_before(accelerator: hal.Accelerator) -> None:
    before = accelerator.current_stream()
    try:
        with accelerator.stream(accelerator.Stream()):
            raise KeyError
    except KeyError:
        assert accelerator.current_stream() == before


def test_what_was_waited_for_is_done(accelerator: hal.Accelerator) -> None:
    event, stream = accelerator.Event(), accelerator.current_stream()
    assert event.query(), "nothing was recorded, so nothing is pending"
    ones = torch.ones(256, 256, device=accelerator.device())
    product = ones @ ones
    event.record()
    event.synchronize()
    assert event.query()
    stream.synchronize()
    assert stream.query()
    assert product[0, 0].item() == 256


def test_events_measure_time_in_milliseconds(accelerator: hal.Accelerator) -> None:
    start, middle, end = (accelerator.Event(enable_timing=True) for _ in range(3))
    ones = torch.ones(256, 256, device=accelerator.device())
    start.record()
    _ = ones @ ones
    middle.record()
    _ = ones @ ones
    end.record()
    end.synchronize()
    both = start.elapsed_time(middle) + middle.elapsed_time(end)
    assert start.elapsed_time(end) > 0
    assert abs(both - start.elapsed_time(end)) <= 0.1 + 0.01 * both


def test_a_copy_from_pinned_memory_is_over_when_its_event_is(accelerator: hal.Accelerator) -> None:
    buffer, event = accelerator.pin(torch.arange(2**16)), accelerator.Event()
    copy = torch.empty(2**16, dtype=torch.int64, device=accelerator.device())
    copy.copy_(buffer, non_blocking=True)
    event.record()
    event.synchronize()
    buffer.zero_()
    assert torch.equal(copy.cpu(), torch.arange(2**16))
