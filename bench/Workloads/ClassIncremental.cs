namespace AuxCore.Bench.Workloads;

/// <summary>How many images of each task were labelled right after each task.</summary>
internal sealed class ClassIncremental
{
    private readonly List<double[]> _accuracies = []; // after task i, of tasks 0 … i, in percent

    /// <summary>Adds what was measured after one more task: the accuracy of each task so far, among all classes so far.</summary>
    /// <exception cref="ArgumentException">Not one accuracy a task.</exception>
    public void Add(double[] accuracies)
    {
        if (accuracies.Length != _accuracies.Count + 1)
            throw new ArgumentException($"{accuracies.Length} accuracies after task {_accuracies.Count + 1}", nameof(accuracies));
        _accuracies.Add(accuracies);
    }

    /// <summary>The mean accuracy of all tasks after the last one.</summary>
    public double LastAccuracy => _accuracies[^1].Average();

    /// <summary>For each task but the last, its best accuracy before the last task less that after it; the mean. 0 for one task.</summary>
    public double Forgetting => _accuracies.Count < 2
        ? 0
        : Enumerable.Range(0, _accuracies.Count - 1)
            .Average(task => _accuracies[task..^1].Max(after => after[task]) - _accuracies[^1][task]);

    /// <summary>An order of classes, the same for the same seed.</summary>
    public static int[] Order(int classes, int seed)
    {
        int[] order = [.. Enumerable.Range(0, classes)];
        new Random(seed).Shuffle(order);
        return order;
    }
}
