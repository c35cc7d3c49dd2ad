namespace Postcopy.Uffd;

/// <summary>
/// Whom the fault thread tells what it cannot handle itself. Called on the fault thread: the listener notes it and
/// wakes its own thread.
/// </summary>
internal interface IFaultObserver
{
    /// <summary>The thread is about to end because of a defect.</summary>
    void OnReaderFailed(Exception e);

    /// <summary>A page cannot be served: an exhausted pool, a layout the registry cannot follow.</summary>
    void OnUnservable(RamBlock? block, long offset, PlaceOutcome outcome);

    /// <summary>The system refused a priority; the thread goes on without.</summary>
    void OnPriorityRefused(string what, int value, int errno);
}
