using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>The NUMA policy of one piece of memory, applied to another: mbind(2) of what get_mempolicy(2) says.</summary>
internal sealed unsafe class MemoryPolicy
{
    private readonly ulong[] _nodes = new ulong[Numaif.MaskWords];
    private readonly ulong[] _seen = new ulong[Numaif.MaskWords];
    private int _mode = Numaif.MPOL_DEFAULT;

    /// <summary>Gives memory the policy of other memory.</summary>
    /// <param name="model">An address of the other.</param>
    /// <param name="address">Where it starts, page-aligned.</param>
    /// <param name="length">Bytes.</param>
    /// <returns>True when its policy is another now: pages that it has already may lie on the wrong node.</returns>
    internal bool TryFollow(nuint model, nuint address, nuint length)
    {
        int mode;
        fixed (ulong* seen = _seen)
        {
            // SAFETY: the kernel writes one int and as many bits as it is told. A kernel without NUMA answers ENOSYS.
            if (Numaif.get_mempolicy(&mode, seen, model) != 0 ||
                (mode == _mode && _seen.AsSpan().SequenceEqual(_nodes)))
            {
                return false;
            }

            if (Numaif.mbind(address, length, mode, mode == Numaif.MPOL_DEFAULT ? null : seen) != 0)
            {
                return false;
            }

            _mode = mode;
            _seen.CopyTo(_nodes, 0);
            return true;
        }
    }
}
