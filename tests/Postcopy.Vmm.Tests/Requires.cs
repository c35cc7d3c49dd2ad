using Postcopy.Uffd;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Tests;

/// <summary>Skips a test that this machine cannot run, with the remedy as the reason.</summary>
internal static class Requires
{
    internal const string Qemu = "/usr/bin/qemu-system-x86_64";

    /// <summary>Opens KVM, or skips.</summary>
    internal static KvmSystem Kvm()
    {
        try
        {
            return KvmSystem.Open();
        }
        catch (VmmException e)
        {
            Assert.Skip($"Needs KVM. {e.Message}");
            throw;
        }
    }

    /// <summary>A userfaultfd that sees faults of the kernel, which KVM's are.</summary>
    internal static void Userfaultfd()
    {
        try
        {
            _ = UffdHandle.Probe();
        }
        catch (UffdException e)
        {
            Assert.Skip($"Needs a userfaultfd. {e.Message}");
        }
    }

    internal static void Tool(string path, string package) =>
        Assert.SkipUnless(File.Exists(path), $"Needs {path}: apt-get install {package}.");
}
