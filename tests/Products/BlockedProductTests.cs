using System.Numerics;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Products;

public unsafe class BlockedProductTests
{
    private static readonly (int Rows, int Columns, int Depth)[] Shapes =
        [(1, 1, 1), (2, 3, 5), (4, 16, 7), (5, 17, 128), (7, 33, 129), (13, 64, 300), (96, 100, 10), (3, 113, 256), (9, 48, 0)];

    [Fact]
    public void Products_agree_with_the_definition_in_every_width()
    {
        foreach (var (rows, columns, depth) in Shapes)
        {
            foreach (var transposed in (bool[])[false, true])
            {
                Check<float, Lanes1<float>>(rows, columns, depth, transposed, 1e-6);
                Check<float, Lanes128<float>>(rows, columns, depth, transposed, 1e-6);
                Check<float, Lanes256<float>>(rows, columns, depth, transposed, 1e-6);
                Check<float, Lanes512<float>>(rows, columns, depth, transposed, 1e-6);
                Check<double, Lanes1<double>>(rows, columns, depth, transposed, 1e-15);
                Check<double, Lanes256<double>>(rows, columns, depth, transposed, 1e-15);
                Check<double, Lanes512<double>>(rows, columns, depth, transposed, 1e-15);
            }
        }
    }

    private static void Check<T, TLanes>(int rows, int columns, int depth, bool transposed, double tolerance)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        var (a, b, c) = (Values<T>(rows * depth, 1), Values<T>(depth * columns, 2), Values<T>(rows * columns, 3));

        var product = Product<T, TLanes>(rows, columns, depth, a, b, c, transposed, parts: 1);

        for (var row = 0; row < rows; row++)
        {
            for (var column = 0; column < columns; column++)
            {
                var (sum, magnitude) = (double.CreateTruncating(c[row * columns + column]), 1.0);
                for (var k = 0; k < depth; k++)
                {
                    var term = double.CreateTruncating(a[row * depth + k]) * double.CreateTruncating(b[k * columns + column]);
                    sum += term;
                    magnitude += Math.Abs(term);
                }

                Assert.Equal(sum, double.CreateTruncating(product[row * columns + column]), tolerance * magnitude);
            }
        }
    }

    [Fact]
    public void Neither_width_nor_threads_change_a_bit() =>
        Gen.Select(Gen.Int[1, 40], Gen.Int[1, 70], Gen.Int[1, 300], Gen.Int[1, 5], Gen.Bool).Sample(
            (rows, columns, depth, parts, transposed) =>
            {
                var (a, b, c) = (Values<float>(rows * depth, 1), Values<float>(depth * columns, 2), Values<float>(rows * columns, 3));
                var scalar = Product<float, Lanes1<float>>(rows, columns, depth, a, b, c, transposed, 1);
                return scalar.SequenceEqual(Product<float, Lanes128<float>>(rows, columns, depth, a, b, c, transposed, parts))
                    && scalar.SequenceEqual(Product<float, Lanes256<float>>(rows, columns, depth, a, b, c, transposed, parts))
                    && scalar.SequenceEqual(Product<float, Lanes512<float>>(rows, columns, depth, a, b, c, !transposed, parts));
            },
            iter: 60);

    [Fact]
    public void A_Gram_matrix_has_the_upper_triangle_of_the_product()
    {
        foreach (var (columns, depth) in ((int, int)[])[(1, 3), (7, 20), (24, 128), (100, 130), (65, 1)])
        {
            using var scratch = new Scratch();
            var step = BlockedProduct<double, Lanes256<double>>.RowStep(columns);
            var x = scratch.TakeZeroed<double>((long)depth * step);
            var values = Values<double>(depth * columns, 4);
            for (var i = 0; i < values.Length; i++)
                x[i / columns * step + i % columns] = values[i];
            var (whole, upper) = (new double[columns * columns], new double[columns * columns]);
            foreach (var (result, isGram) in ((double[], bool)[])[(whole, false), (upper, true)])
            {
                var c = scratch.TakeZeroed<double>((long)columns * step);
                for (var part = 0; part < 3; part++)
                {
                    if (isGram)
                        BlockedProduct<double, Lanes256<double>>.AddGram(columns, depth, x, step, c, step, new(part, 3));
                    else
                        BlockedProduct<double, Lanes256<double>>.Add(
                            columns, columns, depth, Factor<double>.Columns(x, step), x, step, c, step, new(part, 3));
                }

                for (var i = 0; i < result.Length; i++)
                    result[i] = c[i / columns * step + i % columns];
            }

            for (var i = 0; i < whole.Length; i++)
            {
                if (i / columns <= i % columns)
                    Assert.Equal(whole[i], upper[i]);
            }
        }
    }

    [Fact]
    public void Scratch_memory_begins_on_cache_lines_and_is_zero_where_asked()
    {
        for (var round = 0; round < 3; round++)
        {
            using var scratch = new Scratch();
            var odd = new Span<byte>(scratch.Take<byte>(1001), 1001);
            var zeros = new Span<float>(scratch.TakeZeroed<float>(777), 777);
            fixed (byte* first = odd)
            fixed (float* second = zeros)
                Assert.Equal((0, 0), ((nint)first % 64, (nint)second % 64));
            Assert.Equal(-1, zeros.IndexOfAnyExcept(0));
            odd.Fill(0xff);
            zeros.Fill(1); // the next round may get the same memory
            Assert.Equal(1001 + 4 * 777, scratch.Bytes);
        }
    }

    private static T[] Product<T, TLanes>(int rows, int columns, int depth, T[] a, T[] b, T[] c, bool transposed, int parts)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        using var scratch = new Scratch();
        var step = BlockedProduct<T, TLanes>.RowStep(columns);
        var left = scratch.TakeZeroed<T>(rows * depth + 1);
        var right = scratch.TakeZeroed<T>(depth * step + 1);
        var result = scratch.TakeZeroed<T>(rows * step);
        for (var i = 0; i < rows * depth; i++)
            left[transposed ? i % depth * rows + i / depth : i] = a[i];
        for (var i = 0; i < depth * columns; i++)
            right[i / columns * step + i % columns] = b[i];
        for (var i = 0; i < rows * columns; i++)
            result[i / columns * step + i % columns] = c[i];
        var factor = transposed ? Factor<T>.Columns(left, rows) : Factor<T>.Rows(left, depth);
        for (var part = 0; part < parts; part++)
            BlockedProduct<T, TLanes>.Add(rows, columns, depth, factor, right, step, result, step, new RowShare(part, parts));
        return [.. Enumerable.Range(0, rows * columns).Select(i => result[i / columns * step + i % columns])];
    }

    private static T[] Values<T>(int count, int seed) where T : INumberBase<T>
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => T.CreateTruncating(random.NextDouble() * 2 - 1))];
    }
}
