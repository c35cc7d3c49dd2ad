using System.Diagnostics;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Handler.Tests;

/// <summary>A client in C that does what Firecracker does, against the sample.</summary>
public sealed class FirecrackerTests
{
    private const int Limit = 120_000;
    private const int Pages = 4096;

    [Theory(Timeout = Limit)]
    [InlineData("new", false)]
    [InlineData("old", true)]
    public async Task AFirecrackerIsServedUntilItEnds(string version, bool fill) => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        Requires.Tool("/usr/bin/gcc", "gcc libc6-dev linux-libc-dev");
        using TestImage image = new(Pages);
        string client = image.Temporary("firecracker-client");
        (int code, string said) = await RunAsync("gcc", ["-O2", "-Wall", "-Werror", "-o", client, Path.Combine(AppContext.BaseDirectory, "firecracker-client.c")]);
        Assert.True(code == 0, said);

        string[] arguments = ["firecracker", "--socket", image.Socket, "--image", image.Image];
        using HandlerProcess handler = HandlerProcess.Start(fill ? [.. arguments, "--fill"] : arguments);
        handler.WaitFor("listening");
        (code, said) = await RunAsync(client, [image.Socket, $"{Pages}", version]);
        Assert.True(code == 0 && said.Contains("all right", StringComparison.Ordinal), $"The client ended with {code}: {said}. The handler said: {handler.Said}");
        Assert.Equal(0, handler.WaitForExit());
        Assert.Contains("ended: OwnerGone", handler.Said, StringComparison.Ordinal);
        Assert.Contains("Firecracker", handler.Said, StringComparison.Ordinal);
    });

    private static async Task<(int Code, string Said)> RunAsync(string program, string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments)
        {
            RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true,
        })!;
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> errors = process.StandardError.ReadToEndAsync();
        using CancellationTokenSource patience = new(TimeSpan.FromSeconds(60));
        try
        {
            await process.WaitForExitAsync(patience.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill();
        }

        return (process.HasExited ? process.ExitCode : -1, await output + await errors);
    }
}
