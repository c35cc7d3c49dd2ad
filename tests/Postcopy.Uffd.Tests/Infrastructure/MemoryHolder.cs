using System.Globalization;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// A child process that owns registered memory, as a guest's process does, and whose userfaultfd this process handles:
/// an external handler. Kill it to have a target that is gone (hazard H37).
/// </summary>
internal sealed class MemoryHolder : IDisposable
{
    private readonly ChildProcess _child;

    private MemoryHolder(ChildProcess child, UffdHandle uffd, AddressRange range)
    {
        _child = child;
        Uffd = uffd;
        Range = range;
    }

    /// <summary>The child's userfaultfd, as received.</summary>
    internal UffdHandle Uffd { get; }

    /// <summary>The registered range, in the child's address space.</summary>
    internal AddressRange Range { get; }

    internal int ProcessId => _child.Id;

    internal static MemoryHolder Start(int pages, UffdModes modes = UffdModes.Missing)
    {
        Requires.Userfaultfd();
        Requires.Root("Taking a descriptor from another process (pidfd_getfd)");
        ChildProcess child = ChildProcess.Start(Hold, pages.ToString(CultureInfo.InvariantCulture), ((ulong)modes).ToString(CultureInfo.InvariantCulture));
        long[] told = [.. child.ReadLine().Split(' ').Select(w => long.Parse(w, CultureInfo.InvariantCulture))];
        SafeFileHandle descriptor = new(TestLibc.TakeDescriptor(child.Id, (int)told[0]), ownsHandle: true);
        return new MemoryHolder(child, UffdHandle.FromReceived(descriptor, UffdFeatures.ThreadId), new AddressRange((nuint)told[1], (nuint)told[2]));
    }

    /// <summary>Lets the child read one byte; it blocks until the page is placed. <see cref="Answer"/> has the byte.</summary>
    internal void Touch(long offset) => _child.WriteLine(offset.ToString(CultureInfo.InvariantCulture));

    internal int Answer() => int.Parse(_child.ReadLine(), CultureInfo.InvariantCulture);

    /// <summary>SIGKILL, and the child is gone when this returns.</summary>
    internal void Kill() => _child.Kill();

    public void Dispose()
    {
        _child.Dispose();
        Uffd.Dispose();
    }

    private static void Hold(ChildScenario child)
    {
        using UffdArena arena = new(
            RawMapping.Anonymous(int.Parse(child.Arguments[0], CultureInfo.InvariantCulture)),
            (UffdModes)ulong.Parse(child.Arguments[1], CultureInfo.InvariantCulture), UffdFeatures.ThreadId);
        child.Say(string.Create(CultureInfo.InvariantCulture,
            $"{arena.Uffd.Descriptor} {(ulong)arena.Memory.Address} {(ulong)arena.Memory.Length}"));
        while (true)
        {
            long offset = long.Parse(child.Hear(), CultureInfo.InvariantCulture);
            child.Say(FaultingThread.ReadByte(arena.Memory.Address + (nuint)offset).ToString(CultureInfo.InvariantCulture));
        }
    }
}
