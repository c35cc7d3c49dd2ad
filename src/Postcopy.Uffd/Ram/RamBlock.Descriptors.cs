namespace Postcopy.Uffd;

/// <content>
/// Which descriptors serve the block: one through which pages are placed, and any number of others that map the same
/// shared memory elsewhere (vhost-user backends): a page is placed once, and mapped or woken in all.
/// </content>
public sealed partial class RamBlock
{
    private BlockMapping? _primary;
    private BlockMapping[] _mirrors = [];

    /// <summary>The mapping through which pages are placed; null before <see cref="Attach(UffdHandle, UffdRegistration)"/>.</summary>
    internal BlockMapping? Primary => Volatile.Read(ref _primary);

    /// <summary>Mappings of the same memory under other descriptors.</summary>
    internal BlockMapping[] Mirrors => Volatile.Read(ref _mirrors);

    /// <summary>Tells the block which descriptor it is registered with, so that a placer can place into it.</summary>
    /// <param name="uffd">The descriptor.</param>
    /// <param name="registration">What <see cref="UffdHandle.Register"/> returned for <see cref="Range"/>.</param>
    /// <exception cref="RamBlockException">The registration does not cover the block.</exception>
    public void Attach(UffdHandle uffd, UffdRegistration registration)
    {
        ArgumentNullException.ThrowIfNull(uffd);
        if (registration.Range.Intersect(Range) != Range)
        {
            throw new RamBlockException(Name, $"The registration of {registration.Range} does not cover RAM block '{Name}' at {Range}.");
        }

        Attach(uffd, registration.Modes, registration.Operations);
    }

    /// <summary>
    /// Adds another mapping of the block's shared memory, under a descriptor that usually belongs to another process.
    /// </summary>
    /// <param name="uffd">That process's descriptor.</param>
    /// <param name="address">Where the block starts there.</param>
    /// <param name="modes">How it is registered there: with <see cref="UffdModes.Minor"/> pages are mapped by CONTINUE, else woken.</param>
    /// <exception cref="RamBlockException">The block's memory is not shared.</exception>
    public void AttachMirror(UffdHandle uffd, nuint address, UffdModes modes)
    {
        ArgumentNullException.ThrowIfNull(uffd);
        AttachMirror((IUffdKernel)uffd, address, modes);
    }

    internal void Attach(IUffdKernel kernel, UffdModes modes, UffdOperations operations) =>
        Volatile.Write(ref _primary, new BlockMapping(kernel, HostAddress, modes, operations));

    internal void AttachMirror(IUffdKernel kernel, nuint address, UffdModes modes)
    {
        if (!IsShared)
        {
            throw new RamBlockException(Name, $"RAM block '{Name}' is private memory; only shared memory can be mapped elsewhere too.");
        }

        Volatile.Write(ref _mirrors, [.. _mirrors, new BlockMapping(kernel, address, modes, UffdOperations.None)]);
    }

    /// <summary>Whoever waits in the range, under whatever descriptor, touches its page again.</summary>
    internal void WakeEverywhere(long offset, long length)
    {
        if (Primary is { } primary)
        {
            _ = primary.Kernel.Wake(primary.Address + (nuint)offset, (nuint)length);
        }

        foreach (BlockMapping mirror in Mirrors)
        {
            _ = mirror.Kernel.Wake(mirror.Address + (nuint)offset, (nuint)length);
        }
    }

    internal void Detach()
    {
        Volatile.Write(ref _primary, null);
        Volatile.Write(ref _mirrors, []);
    }
}
