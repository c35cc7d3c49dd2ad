namespace Postcopy.Destination;

/// <summary>A thread that allocates and collects without pause, for the run that shows that nothing hangs (hazard H1).</summary>
internal sealed class GcPressure : IDisposable
{
    private readonly Thread _thread;
    private volatile bool _stop;

    internal GcPressure()
    {
        _thread = new Thread(Main) { IsBackground = true, Name = "gc pressure" };
        _thread.Start();
    }

    internal long Collections { get; private set; }

    internal long AllocatedBytes { get; private set; }

    public void Dispose()
    {
        _stop = true;
        _thread.Join();
    }

    private void Main()
    {
        byte[][] kept = new byte[64][];
        for (int i = 0; !_stop; i++)
        {
            kept[i % kept.Length] = new byte[64 << 10];
            if (i % 256 == 0)
            {
                GC.Collect(i % 1024 == 0 ? 2 : 0, GCCollectionMode.Forced, blocking: true);
                Collections++;
            }
        }

        AllocatedBytes = GC.GetTotalAllocatedBytes();
    }
}
