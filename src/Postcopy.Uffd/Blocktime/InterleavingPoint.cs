using System.Diagnostics;

namespace Postcopy.Uffd;

/// <summary>
/// The seam at the atomic accesses of tracker, bitmaps, claims, staging and fault reader: a test that enumerates
/// interleavings installs a scheduler here.
/// </summary>
/// <remarks>
/// Calls vanish from a Release build (the attributes take call and argument away), so the hot path pays nothing.
/// The hook is per thread: threads that take no part in an enumeration run on undisturbed.
/// </remarks>
internal static class InterleavingPoint
{
    /// <summary>The place of whoever looks again until another thread has done something.</summary>
    internal const string Waits = "waits";

    [ThreadStatic]
    private static Action<string>? s_hook;

    /// <summary>Installs the hook of the calling thread, or takes it away.</summary>
    internal static void Install(Action<string>? hook) => s_hook = hook;

    [Conditional("DEBUG")]
    [Conditional("INTERLEAVING")]
    internal static void Yield(string place) => s_hook?.Invoke(place);
}
