namespace Postcopy.Vmm.Demo;

internal static class DemoMain
{
    internal static Task<int> RunAsync(int vcpus, bool longMode, CancellationToken cancellationToken) => Task.FromResult(0);
}
