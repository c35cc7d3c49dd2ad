using System.Globalization;
using System.Numerics;
using Postcopy.Uffd;

namespace Postcopy.Docs.Tests;

public sealed class KernelSupportTests
{
    [Fact]
    public void EveryFeatureBitHasItsRow()
    {
        string document = Repository.Read("docs/kernel-support.md");
        UffdFeatures[] features = [.. Enum.GetValues<UffdFeatures>().Where(f => f != UffdFeatures.None)];
        Assert.NotEmpty(features);
        Assert.All(features, f => Assert.Contains(
            string.Create(CultureInfo.InvariantCulture, $"| {BitOperations.TrailingZeroCount((ulong)f)} | `{f}` | "), document, StringComparison.Ordinal));
    }
}
