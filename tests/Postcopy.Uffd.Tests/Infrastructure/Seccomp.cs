using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>A seccomp(2) filter as a container's profile installs it: one system call of the calling thread gets an errno.</summary>
internal static unsafe partial class Seccomp
{
    private const int PR_SET_NO_NEW_PRIVS = 38;
    private const int PR_SET_SECCOMP = 22;
    private const int SECCOMP_MODE_FILTER = 2;
    private const uint SECCOMP_RET_ALLOW = 0x7fff0000;
    private const uint SECCOMP_RET_ERRNO = 0x00050000;

    // linux/filter.h, linux/bpf_common.h: load a word, compare, test bits, return.
    private const ushort LoadWord = 0x20;
    private const ushort JumpIfEqual = 0x15;
    private const ushort JumpIfAnyBit = 0x45;
    private const ushort Return = 0x06;

    // linux/seccomp.h, struct seccomp_data.
    private const uint NumberOffset = 0;
    private const uint FirstArgumentOffset = 16;

    [StructLayout(LayoutKind.Sequential)]
    private record struct Instruction(ushort Code, byte Then, byte Else, uint Value);

    [StructLayout(LayoutKind.Sequential)]
    private struct Program
    {
        internal ushort Length;
        internal Instruction* Instructions;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int prctl(int option, nuint a, nuint b, nuint c, nuint d);

    /// <summary>From here on the calling thread gets the errno for the call, when its first argument has one of the bits. For good: only in a child.</summary>
    internal static void Refuse(nint number, int errno, uint argumentBits = uint.MaxValue)
    {
        Span<Instruction> filter =
        [
            new(LoadWord, 0, 0, NumberOffset),
            new(JumpIfEqual, 0, 3, (uint)number),
            new(LoadWord, 0, 0, FirstArgumentOffset),
            new(JumpIfAnyBit, 0, 1, argumentBits),
            new(Return, 0, 0, SECCOMP_RET_ERRNO | (uint)errno),
            new(Return, 0, 0, SECCOMP_RET_ALLOW),
        ];
        fixed (Instruction* first = filter)
        {
            Program program = new() { Length = (ushort)filter.Length, Instructions = first };
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (nuint)(&program), 0, 0) != 0)
            {
                throw new InvalidOperationException($"No seccomp filter: errno {Marshal.GetLastPInvokeError()}.");
            }
        }
    }
}
