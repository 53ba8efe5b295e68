"""Does AuxCore work on another framework's memory, on its current stream, without a copy and without anybody waiting?"""

from auxcore import EmaTensors
from paths.ema import float32

DECAY, COUNT = 0.75, 4099


def check(device, context):
    """None, or what is wrong. On a stream of its own something slow comes first, then the source is written, the average updated and read,
    with one synchronisation at the end. Work that ran early, elsewhere or on other memory gives other numbers."""
    with device.another_stream():
        source, fresh, average, result = (device.normal(COUNT) for _ in range(4))
        e, p = device.float64([average]), device.float64([fresh])
        tensors = EmaTensors([(device.address(source), [device.address(average)], COUNT, "float32")])
        table = context.ema(1)
        try:
            device.synchronize()
            device.delay()
            device.copy(source, fresh)
            table.set_decays(device.stream(), [DECAY])
            table.update(device.stream(), tensors)
            device.copy(result, average)
            device.synchronize()
            error = device.ulps(device.float64([result]), e + float32(1 - DECAY) * (p - e), device.larger_magnitude(e, p))
        finally:
            table.destroy()
        return None if error <= 1 else f"wrong by {error:.3g} ulps, 1 allowed"
