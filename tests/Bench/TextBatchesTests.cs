using System.Text;
using System.Text.RegularExpressions;
using AuxCore.Bench.Data;
using AuxCore.Bench.Workloads;
using AuxCore.Tests.Data;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public sealed partial class TextBatchesTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly AustenNovels _novels;

    public TextBatchesTests() => _novels = AustenNovels.LoadBest(new(DataStore.Default.Manifest, _folder["empty"])); // the excerpt

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_batch_is_a_function_of_seed_and_step()
    {
        var batches = new TextBatches(_novels, 3);
        var first = Ids(batches.Batch(7, 4, 64, 12));
        batches.Batch(8, 4, 64, 12);

        Assert.Equal(4 * 65, first.Length);
        Assert.Equal(first, Ids(batches.Batch(7, 4, 64, 12)));
        Assert.Equal(first, Ids(new TextBatches(_novels, 3).Batch(7, 4, 64, 12)));
        Assert.NotEqual(first, Ids(batches.Batch(8, 4, 64, 12)));
        Assert.NotEqual(first, Ids(new TextBatches(_novels, 4).Batch(7, 4, 64, 12)));
    }

    [Fact]
    public void One_sequence_in_five_is_recall_and_the_others_are_text()
    {
        var text = Encoding.ASCII.GetString(_novels.Train);
        var batches = new TextBatches(_novels, 1);
        for (var step = 0; step < 10; step++)
        {
            var ids = batches.Batch(step, 1, 128, 12);
            Assert.Equal(step % TextBatches.RecallEvery != 0, text.Contains(Text(ids), StringComparison.Ordinal));
        }
    }

    [Fact]
    public void What_recall_asks_for_was_told_before()
    {
        var batches = new TextBatches(_novels, 1);
        var questions = 0;
        for (var step = 0; step < 60; step += TextBatches.RecallEvery)
        {
            var text = Text(batches.Batch(step, 1, 256, 6));
            var told = Told(text, 6);
            foreach (Match question in Question().Matches(text))
            {
                Assert.Equal(told[question.Groups[1].Value], question.Groups[2].Value);
                questions++;
            }
        }

        Assert.InRange(questions, 100, 1000);
    }

    [Theory]
    [InlineData(64)]
    [InlineData(1024)]
    public void A_prompt_tells_its_answer_first_and_ends_in_the_question(int length)
    {
        var places = new HashSet<int>();
        for (var seed = 0; seed < 20; seed++)
        {
            var prompt = new byte[length];
            var answer = TextBatches.RecallPrompt(new Random(seed), _novels.HeldOut, prompt, TextBatches.MostPairs);
            var text = Encoding.ASCII.GetString(prompt);

            Assert.Matches(@"\n\?[A-Z]$", text);
            Assert.Equal(Encoding.ASCII.GetString(answer), Told(text, TextBatches.MostPairs)[text[^1..]]);
            Assert.DoesNotContain((byte)0, prompt);
            places.Add(text.IndexOf(text[^1]));
        }

        Assert.InRange(places.Count, 5, TextBatches.MostPairs); // not always the same pair
    }

    [Fact]
    public void The_curriculum_rises_from_two_pairs_to_all()
    {
        int[] pairs = [.. Enumerable.Range(0, 101).Select(percent => TextBatches.Pairs(percent / 100.0))];

        Assert.Equal((2, TextBatches.MostPairs, TextBatches.MostPairs), (pairs[0], pairs[34], pairs[100]));
        Assert.Equal(pairs.Order(), pairs);
    }

    [Fact]
    public void Even_places_reach_from_the_beginning_on()
    {
        byte[] text = [.. Enumerable.Range(0, 100).Select(i => (byte)i)];

        Assert.Equal([0, 1, 2, 3, 48, 49, 50, 51], Ids(TextBatches.Even(text, 2, 3)));
    }

    [GeneratedRegex(@"(?<=\n)\?([A-Z])([a-z]{2})(?=\n)")]
    private static partial Regex Question();

    // The first of a letter counts: behind the pairs text follows, which may look like one.
    private static Dictionary<string, string> Told(string text, int pairs)
    {
        var told = new Dictionary<string, string>();
        for (var p = 0; p < pairs; p++)
        {
            var pair = text.Substring(p * TextBatches.PairBytes, TextBatches.PairBytes);
            if (Regex.IsMatch(pair, "^[A-Z][a-z]{2} $"))
                told.TryAdd(pair[..1], pair[1..3]);
        }

        return told;
    }

    private static long[] Ids(Tensor batch) => batch.data<long>().ToArray();

    private static string Text(Tensor batch) => Encoding.ASCII.GetString([.. Ids(batch).Select(id => (byte)id)]);
}
