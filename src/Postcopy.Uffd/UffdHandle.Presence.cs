namespace Postcopy.Uffd;

/// <content>The part of the kernel seam that is not an ioctl.</content>
public sealed partial class UffdHandle
{
    bool IUffdKernel.IsPresent(nuint address) => PageTables.IsPresent(address);
}
