using System.Reflection;
using System.Runtime.Versioning;

namespace Postcopy.Uffd.Tests;

public sealed class AssetTests
{
    [Fact]
    public void TheseTestsRunAgainstTheAssetForOtherRuntimes()
    {
        TargetFrameworkAttribute? target = typeof(UffdHandle).Assembly.GetCustomAttribute<TargetFrameworkAttribute>();
        Assert.Equal(".NETStandard,Version=v2.0", target?.FrameworkName);
    }
}
