namespace Postcopy.Destination.Tests;

public sealed class CommandLineTests
{
    private const int Limit = 60_000;

    [Theory(Timeout = Limit)]
    [InlineData("--vcpus", "65", "--vcpus: '65' is not allowed; give a whole number from 0 to 64.")]
    [InlineData("--vcpus", "two", "--vcpus: 'two' is not allowed; give a whole number from 0 to 64.")]
    [InlineData("--memory", "lots", "--memory: 'lots' is not allowed; give a size from 1M to 1T, a multiple of the page size, such as 256M or 1G.")]
    [InlineData("--memory", "1K", "--memory: '1K' is not allowed; give a size from 1M to 1T")]
    [InlineData("--memory", "1048577", "--memory: 1048577 bytes are not allowed; give a multiple of the page size (4096 bytes).")]
    [InlineData("--page-size", "2m", "--page-size: '2m' is not allowed with --memory-kind anonymous; use --memory-kind hugetlb, or --page-size 4k.")]
    [InlineData("--page-size", "8k", "--page-size: '8k' is not allowed; give 4k or 2m.")]
    [InlineData("--memory-kind", "disk", "--memory-kind: 'disk' is not allowed; give anonymous or memfd or hugetlb.")]
    [InlineData("--seed", "x", "--seed: 'x' is not allowed; give a whole number.")]
    [InlineData("--bandwidth", "fast", "--bandwidth: 'fast' is not allowed; give bytes a second from 64K up, such as 50MB/s or 20M, or 0.")]
    [InlineData("--bandwidth", "50", "--bandwidth: '50' is not allowed; give bytes a second from 64K up")]
    [InlineData("--report-file", "/no/such/folder/report", "--report-file: '/no/such/folder/report' is not allowed; give a file in a folder that exists.")]
    [InlineData("--hash-file", "/tmp", "--hash-file: '/tmp' is not allowed; give a file in a folder that exists.")]
    [InlineData("--timeline", "/no/such/folder/run.svg", "--timeline: '/no/such/folder/run.svg' is not allowed; give a file in a folder that exists.")]
    [InlineData("--report", "xml", "--report: 'xml' is not allowed; give text or json or hmp.")]
    [InlineData("--listen", "udp:1", "--listen: 'udp:1' is not allowed; give tcp:HOST:PORT (such as tcp:127.0.0.1:4444) or unix:PATH.")]
    [InlineData("--listen", "tcp:127.0.0.1:99999", "--listen: 'tcp:127.0.0.1:99999' is not allowed; give tcp:HOST:PORT")]
    [InlineData("--timeout", "0", "--timeout: '0' is not allowed; give a whole number from 1 to 86400.")]
    [InlineData("--timeline", "run.png", "--timeline: 'run.png' is not allowed; give a file that ends in .svg, .html or .json.")]
    [InlineData("--nonsense", "1", "--nonsense")]
    public async Task AWrongValueIsNamedWithWhatIsAllowed(string option, string value, string message)
    {
        (int exit, string output, string error) = await SampleProcess.RunAsync(option, value);
        Assert.Equal(2, exit);
        Assert.Contains(message, error, StringComparison.Ordinal);
        Assert.Equal(string.Empty, output);
    }

    [Theory(Timeout = Limit)]
    [InlineData("--page-size: '2m' is not allowed with --memory-kind memfd; use --memory-kind hugetlb, or --page-size 4k.", "--page-size", "2m", "--memory-kind", "memfd")]
    [InlineData("--page-size: '4k' is not allowed with --memory-kind hugetlb; use --page-size 2m, or another memory kind.", "--page-size", "4k", "--memory-kind", "hugetlb")]
    [InlineData("--memory: 3145728 bytes are not allowed; give a multiple of the page size (2097152 bytes).", "--memory", "3M", "--memory-kind", "hugetlb")]
    public async Task OptionsThatContradictEachOtherAreNamed(string message, params string[] arguments)
    {
        (int exit, string output, string error) = await SampleProcess.RunAsync(arguments);
        Assert.Equal(2, exit);
        Assert.Contains(message, error, StringComparison.Ordinal);
        Assert.Equal(string.Empty, output);
    }

    [Fact(Timeout = Limit)]
    public async Task TooLongASocketPathIsRefusedWithTheLimit()
    {
        (int exit, _, string error) = await SampleProcess.RunAsync("--listen", "unix:/tmp/" + new string('x', 120));
        Assert.Equal(2, exit);
        Assert.Contains("a path of at most 107 bytes", error, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task HelpNamesEveryOptionAndNotTheHiddenSource()
    {
        (int exit, string output, _) = await SampleProcess.RunAsync("--help");
        Assert.Equal(0, exit);
        foreach (string option in (string[])["--vcpus", "--memory", "--page-size", "--memory-kind", "--seed", "--bandwidth", "--report", "--report-file",
            "--hash-file", "--timeline", "--listen", "--timeout"])
        {
            Assert.Contains(option + " ", output, StringComparison.Ordinal);
        }

        Assert.DoesNotContain("embedded-source", output, StringComparison.Ordinal);
    }
}
