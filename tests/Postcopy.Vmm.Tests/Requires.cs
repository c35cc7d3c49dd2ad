using Postcopy.Uffd;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>Skips a test that this machine cannot run, with the remedy as the reason.</summary>
internal static class Requires
{
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

    /// <summary>A QEMU: the one on PATH, or the newest that eng/get-qemu has fetched; the directory tree that it runs in.</summary>
    internal static string? Qemu(bool newest = false)
    {
        if (!newest)
        {
            Assert.SkipUnless(QemuProcess.IsInstalled, $"Needs {QemuProcess.Program} on PATH: apt-get install qemu-system-x86.");
            return null;
        }

        string cache = Environment.GetEnvironmentVariable("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetEnvironmentVariable("HOME") ?? "/", ".cache");
        string root = Path.Combine(cache, "postcopy-uffd/qemu-sid");
        Assert.SkipUnless(File.Exists($"{root}/usr/bin/{QemuProcess.Program}"), $"Needs the newest QEMU in {root}: run eng/get-qemu as root.");
        return root;
    }

    internal static void Tool(string path, string package) =>
        Assert.SkipUnless(File.Exists(path), $"Needs {path}: apt-get install {package}.");
}
