using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>
/// The ILGPU backends of KV caches on the stand-in's device memory: what they launch, and on which stream. The stand-in records launches;
/// their PTX is run by the interpreter, with the parameters that were recorded.
/// </summary>
[Collection(ProcessWide.Name)]
public class KvIlgpuStandinTests
{
    public KvIlgpuStandinTests()
    {
        CudaDriver.RequireStandin();
        Assert.SkipUnless(AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out var reason), $"no ILGPU here: {reason}");
    }

    [Fact]
    public void KvQuantise_is_one_launch_on_the_stream_that_is_given()
    {
        var x = KvSamples.Elements(33 * 32, seed: 3);
        var (expected, back) = (new byte[33 * Q8Group.Bytes], new float[x.Length]);
        KvQuantise.Run(x, KvFormat.Q8_0, expected);
        KvQuantise.Dequantise(expected, KvFormat.Q8_0, back);
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var (elements, stored) = (devices.Add(x, 33, 32), devices.Add(new byte[expected.Length], 33, Q8Group.Bytes));
        var restored = devices.Add(new float[x.Length], 33, 32);

        KvQuantise.Run(elements, KvFormat.Q8_0, stored, backend: AuxBackend.Ilgpu, stream: stream);
        Ran("Kernel_Quantise", KvQuantiseKernel.Quantise);
        Assert.Equal(expected, Devices.Read<byte>(stored, stream));
        KvQuantise.Dequantise(stored, KvFormat.Q8_0, restored, backend: AuxBackend.Ilgpu, stream: stream);
        Ran("Kernel_Dequantise", KvQuantiseKernel.Dequantise);
        Assert.Equal(Devices.Bits(back), Devices.Bits(Devices.Read<float>(restored, stream)));
        devices.CheckMargins();

        void Ran(string kernel, Action<KvQuantiseViews> code)
        {
            stream.Synchronize();
            var launch = StandinLaunch.Last();
            Assert.Equal((kernel, 2u, 256u, stream.Handle), (launch.Kernel, launch.Grid, launch.Block, launch.Stream)); // 32 groups a block
            launch.Run(IlgpuPtx.Compile(code, KvQuantiseKernel.Threads, 8));
        }
    }

    [Theory]
    [InlineData(70, false)]
    [InlineData(600, false)]
    [InlineData(600, true)]
    public void KvDecodeAttention_attends_and_where_positions_are_split_merges(int capacity, bool lengthsOnDevice)
    {
        var shape = new KvAttentionShape(2, 6, 1, 24, capacity);
        var batch = new AttentionBatch(shape, [capacity - 3, 2], KvFormat.F32, KvFormat.F32);
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        long[] rows = [2, 1, capacity, 24];
        var (query, output) = (devices.Add(batch.Query, 2, 6, 24), devices.Add(new float[2 * 6 * 24], 2, 6, 24));
        var (keys, values) = (Add(batch.Keys), Add(batch.Values));
        var bytes = KvDecodeAttention.WorkspaceBytes(shape);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes)).View(bytes);
        if (lengthsOnDevice)
        {
            KvDecodeAttention.Run(
                query, new KvCacheViews { Keys = keys, Values = values }, devices.Add(batch.Lengths), output, backend: AuxBackend.Ilgpu,
                workspace: workspace, stream: stream);
        }
        else
        {
            KvDecodeAttention.Run(
                query, keys, KvFormat.F32, values, KvFormat.F32, batch.Lengths, output, backend: AuxBackend.Ilgpu, workspace: workspace,
                stream: stream);
        }

        stream.Synchronize();
        var (splits, merge) = (capacity / 256 + 1, StandinLaunch.Last());
        if (splits > 1) // 288 elements, of which a block has 128
            Assert.Equal(("Kernel_Merge", 3u, 128u, stream.Handle), (merge.Kernel, merge.Grid, merge.Block, merge.Stream));
        else
            Assert.Equal(("Kernel_Attend", 4u, 128u, stream.Handle), (merge.Kernel, merge.Grid, merge.Block, merge.Stream));

        // Two blocks have the six query heads of a sequence. Both kernels have the same parameters.
        (merge with { Kernel = "Kernel_Attend", Grid = 4 * (uint)splits })
            .Run(IlgpuPtx.Compile(KvDecodeAttentionKernel.Attend, KvDecodeAttentionKernel.Threads, 8));
        if (splits > 1)
            merge.Run(IlgpuPtx.Compile(KvDecodeAttentionKernel.Merge, KvDecodeAttentionKernel.Threads, 8));
        batch.RequireClose(Devices.Read<float>(output, stream), Tolerances.KvDecodeAttentionRelative);
        devices.CheckMargins();

        TensorView Add(byte[] elements) => devices.Add(MemoryMarshal.Cast<byte, float>(elements.AsSpan()).ToArray(), rows);
    }

    [Fact]
    public void Too_little_workspace_is_refused_before_anything_is_launched()
    {
        using var devices = new Devices();
        var (query, output) = (devices.Add(new float[16], 1, 2, 8), devices.Add<float>([.. Enumerable.Repeat(-7f, 16)], 1, 2, 8));
        var cache = devices.Add(new float[600 * 8], 1, 1, 600, 8);
        var launches = CudaDriver.Launches;
        foreach (var (text, workspace) in ((string, TensorView)[])
            [
                ("workspace: missing; uint8[", default),
                ("or more is needed on cuda:0", devices.Keep(DeviceBuffer.Allocate<byte>(64)).View(64)),
            ])
        {
            var error = Assert.Throws<ArgumentException>(() => KvDecodeAttention.Run(
                query, cache, KvFormat.F32, cache, KvFormat.F32, [600], output, backend: AuxBackend.Ilgpu, workspace: workspace));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
        }

        Assert.Equal(launches, CudaDriver.Launches);
        Assert.All(Devices.Read<float>(output), value => Assert.Equal(-7, value));
        devices.CheckMargins();
    }
}
