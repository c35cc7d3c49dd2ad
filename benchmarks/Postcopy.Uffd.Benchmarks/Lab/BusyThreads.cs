using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>Native threads of this process that compute, as vCPUs do that need no page.</summary>
internal sealed class BusyThreads : IDisposable
{
    private readonly nint _load;

    internal BusyThreads(int count)
    {
        if (NativeLab.lab_load_start(count, out _load) != 0)
        {
            throw new LabException($"{count} threads could not be started.");
        }
    }

    public void Dispose() => NativeLab.lab_load_stop(_load);
}
