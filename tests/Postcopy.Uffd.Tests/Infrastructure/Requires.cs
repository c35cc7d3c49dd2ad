using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Skips a test that this machine cannot run, with the remedy as the reason.</summary>
internal static class Requires
{
    private static readonly Lazy<(UffdSupport? Support, string Refusal)> s_support = new(() =>
    {
        try
        {
            return (UffdHandle.Probe(), string.Empty);
        }
        catch (UffdException e)
        {
            return (null, e.Message);
        }
    });

    /// <summary>A full userfaultfd (kernel faults too) with these features.</summary>
    internal static void Userfaultfd(UffdFeatures features = UffdFeatures.None)
    {
        (UffdSupport? support, string refusal) = s_support.Value;
        Assert.SkipUnless(support is not null, $"Needs a userfaultfd. {refusal}");
        UffdFeatures missing = features & ~support!.Features;
        Assert.SkipUnless(missing == 0, $"Needs a kernel with {missing}; this one is {Environment.OSVersion.VersionString}. Run the tests on a newer kernel.");
    }

    /// <summary>Root: for huge-page pools, other users and memory cgroups.</summary>
    internal static void Root(string what) =>
        Assert.SkipUnless(Libc.geteuid() == 0, $"{what} needs root: run the tests with 'sudo dotnet test'.");

    internal static void Tool(string path, string package) =>
        Assert.SkipUnless(File.Exists(path), $"Needs {path}: apt-get install {package}.");
}
