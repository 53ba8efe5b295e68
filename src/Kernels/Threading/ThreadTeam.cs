using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// The worker threads of the CPU backend. Workers sleep between jobs and the caller sleeps at the join: spinning, as OpenMP teams do, ruins
/// latency on machines that are shared. One job runs at a time; a caller that finds the team busy does the whole job itself.
/// </summary>
internal static class ThreadTeam
{
    private static readonly Lock OneJob = new();
    private static readonly object Signal = new();
    private static readonly List<Thread> Workers = [];
    private static Action<int>? CurrentJob;
    private static int Parts;
    private static int NextPart;
    private static int Pending;

    /// <summary>Runs <paramref name="job"/> for the parts 0 … <paramref name="parts"/> − 1, the last on the calling thread.</summary>
    /// <param name="parts">How many parts, at most one a thread.</param>
    /// <param name="job">Must not throw: it is a kernel's inner loop, and its arguments were checked.</param>
    public static void Run(int parts, Action<int> job)
    {
        // The lock is recursive, so a job that starts a job has to be told apart from a caller that finds the team free.
        if (parts <= 1 || OneJob.IsHeldByCurrentThread || !OneJob.TryEnter())
        {
            for (var part = 0; part < parts; part++)
                job(part);
            return;
        }

        try
        {
            lock (Signal)
            {
                while (Workers.Count < parts - 1)
                    AddWorker();
                (CurrentJob, Parts, NextPart, Pending) = (job, parts - 1, 0, parts - 1);
                Monitor.PulseAll(Signal);
            }

            job(parts - 1);

            lock (Signal)
            {
                while (Pending > 0)
                    Monitor.Wait(Signal);
                CurrentJob = null;
            }
        }
        finally
        {
            OneJob.Exit();
        }
    }

    /// <summary>
    /// How many threads a job deserves: one up to <paramref name="minimum"/> units of work a thread,
    /// at most <see cref="AuxRuntime.CpuThreads"/>.
    /// </summary>
    public static int Count(long work, long minimum) => (int)Math.Clamp(work / minimum, 1, AuxRuntime.CpuThreads);

    private static void AddWorker()
    {
        var worker = new Thread(Work) { IsBackground = true, Name = $"AuxCore {Workers.Count + 1}" };
        worker.Start();
        Workers.Add(worker);
    }

    private static void Work()
    {
        while (true)
        {
            int part;
            Action<int> job;
            lock (Signal)
            {
                while (CurrentJob is null || NextPart >= Parts)
                    Monitor.Wait(Signal);
                (job, part) = (CurrentJob, NextPart++);
            }

            job(part);

            lock (Signal)
            {
                if (--Pending == 0)
                    Monitor.PulseAll(Signal);
            }
        }
    }
}
