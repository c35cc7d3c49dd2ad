using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd;

/// <content>The part of the kernel seam that is not an ioctl.</content>
public sealed partial class UffdHandle
{
    private SafeFileHandle? _ownerPageTables;

    /// <summary>The page tables of the process whose addresses these are; without them nothing foreign counts as present.</summary>
    internal void ReadPageTablesOf(SafeFileHandle pagemap) => _ownerPageTables = pagemap;

    bool IUffdKernel.IsPresent(nuint address) =>
        !IsForeign ? PageTables.IsPresent(address) : _ownerPageTables is { } tables && PageTables.IsPresent(tables, address);
}
