using AuxCore.Bench.Measurement;

namespace AuxCore.Tests.Bench;

public class BandwidthProbeTests
{
    [Theory]
    [InlineData(true, 12)]
    [InlineData(false, 8)]
    public void It_moves_what_was_asked_rounded_up_to_vectors(bool inPlace, int bytesPerElement)
    {
        using var probe = new BandwidthProbe(inPlace, 1000 * bytesPerElement + 1);
        Assert.True(probe.BytesPerCall >= 1000 * bytesPerElement + 1);
        Assert.True(probe.BytesPerCall <= 1100 * bytesPerElement);
        Assert.Equal(0, probe.BytesPerCall % bytesPerElement);
    }

    [Fact]
    public void Small_buffers_rotate_over_more_than_twice_the_cache()
    {
        using var probe = new BandwidthProbe(inPlace: false, bytesPerCall: 8 << 20);
        Assert.True(probe.Pairs * probe.BytesPerCall > 2L * 64 << 20);
        long turns = 0;
        ref float first = ref probe.NextTarget(0);
        do
        {
            probe.Run();
            turns++;
        }
        while (!System.Runtime.CompilerServices.Unsafe.AreSame(ref first, ref probe.NextTarget(0)));
        Assert.Equal(probe.Pairs, turns);
    }

    [Fact]
    public void Triad_adds_to_every_element_of_one_buffer()
    {
        using var probe = new BandwidthProbe(inPlace: true, bytesPerCall: 12 * 1024);
        ref float first = ref probe.NextTarget(0), last = ref probe.NextTarget(1023);
        ref float source = ref probe.NextTarget(1024);
        probe.Run();
        Assert.Equal(1 + 1e-6f, first);
        Assert.Equal(first, last);
        Assert.Equal(1, source);
        Assert.Equal(1, probe.NextTarget(0)); // the next buffer's turn has not come
    }

    [Fact]
    public void Nothing_to_move_and_use_after_disposal_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new BandwidthProbe(true, 0));
        var probe = new BandwidthProbe(true, 100);
        probe.Dispose();
        probe.Dispose();
        Assert.Throws<ObjectDisposedException>(probe.Run);
    }
}
