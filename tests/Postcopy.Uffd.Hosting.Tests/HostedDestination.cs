using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Hosting.Tests;

/// <summary>A real host with a destination, and sources that connect to it.</summary>
internal sealed class HostedDestination : IAsyncDisposable
{
    /// <summary>Stretches of 2 MiB, which may be moved as huge pages, and a tail, whose pages are copied or are zero pages.</summary>
    internal const long Ram = 9 << 20;
    private readonly string _folder = Directory.CreateTempSubdirectory("postcopy-hosting-").FullName;
    private readonly List<QemuSource> _sources = [];

    internal HostedDestination(Action<PostcopyHostingOptions>? configure = null, Action<IServiceCollection>? services = null)
    {
        Assert.SkipUnless(File.Exists("/dev/userfaultfd"), "Needs userfaultfd: Linux 6.1 with /dev/userfaultfd, readable by this user.");
        Path = System.IO.Path.Combine(_folder, "migration");
        HostApplicationBuilder builder = Microsoft.Extensions.Hosting.Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        builder.Services.AddMetrics();
        builder.Services.AddLogging(logging => logging.SetMinimumLevel(LogLevel.Critical));
        builder.Services.AddPostcopyDestination<TestGuest>(options =>
        {
            options.Listen = $"unix:{Path}";
            options.AllowUserModeOnly = true;
            configure?.Invoke(options);
        });
        builder.Services.AddHealthChecks().AddPostcopyDestination();
        services?.Invoke(builder.Services);
        Host = builder.Build();
    }

    internal IHost Host { get; }

    internal string Path { get; }

    internal PostcopyReceiver Receiver => Host.Services.GetRequiredService<PostcopyReceiver>();

    internal TestGuest Guest => (TestGuest)Host.Services.GetRequiredKeyedService<IPostcopyGuest>("");

    internal static MigrationChannel Connect(EndPoint address)
    {
        Socket socket = new(address.AddressFamily, SocketType.Stream, address is IPEndPoint ? ProtocolType.Tcp : ProtocolType.Unspecified);
        socket.Connect(address);
        return MigrationChannel.FromSocket(socket);
    }

    internal MigrationChannel Connect() => Connect(Receiver.Address!);

    internal QemuSource NewSource(long bandwidth = 0, int precopyPasses = 0)
    {
        QemuSource source = new(new PatternMemory(new SourceRamBlock("pc.ram", Ram)), new QemuSourceOptions { BackgroundBandwidth = bandwidth, PrecopyPasses = precopyPasses });
        _sources.Add(source);
        return source;
    }

    internal async Task<HealthReportEntry> Health() =>
        (await Host.Services.GetRequiredService<HealthCheckService>().CheckHealthAsync()).Entries["postcopy"];

    public async ValueTask DisposeAsync()
    {
        foreach (QemuSource source in _sources)
        {
            await source.DisposeAsync();
        }

        await ((IAsyncDisposable)Host).DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }
}
