using System.Runtime.InteropServices;
using Postcopy.Vmm.Interop;

namespace Postcopy.Vmm.Machine;

/// <summary>
/// A signal that does nothing but end a KVM_RUN. Its handler must be native code that is safe anywhere: libc's
/// <c>abs</c>, which takes an int, as a handler does, and touches nothing.
/// </summary>
internal static class StopSignal
{
    // Above SIGRTMIN (34), which the .NET runtime and glibc use themselves.
    private const int Number = 42;

    private static readonly bool s_installed = Install();

    /// <summary>Interrupts KVM_RUN of one thread of this process. The thread must not have ended.</summary>
    internal static void Send(int thread)
    {
        _ = s_installed;
        _ = Libc.tgkill(Environment.ProcessId, thread, Number);
    }

    private static bool Install()
    {
        nint handler = NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), "abs");
        return Libc.signal(Number, handler) != -1;
    }
}
