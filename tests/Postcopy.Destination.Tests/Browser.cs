using System.Diagnostics;
using System.Net.WebSockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Postcopy.Destination.Tests;

/// <summary>
/// A headless Chromium over its DevTools protocol: loads a page, tells what it logged and asked for, answers expressions, and
/// takes pictures. Own code because the registry here has no PuppeteerSharp, and Playwright brings a browser of its own.
/// </summary>
internal sealed class Browser : IAsyncDisposable
{
    private static readonly string[] s_programs = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium", "/usr/bin/google-chrome"];
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(40);

    private readonly Process _process;
    private readonly string _profile;
    private readonly ClientWebSocket _socket = new();
    private readonly CancellationTokenSource _end = new(s_patience * 2);
    private readonly List<string> _complaints = [];
    private readonly List<string> _requests = [];
    private int _lastId;
    private string? _session;

    private Browser(Process process, string profile)
    {
        _process = process;
        _profile = profile;
    }

    /// <summary>Console errors, exceptions and log entries of the page loaded last.</summary>
    internal IReadOnlyList<string> Complaints => _complaints;

    /// <summary>Addresses that the page loaded last asked for, its own included.</summary>
    internal IReadOnlyList<string> Requests => _requests;

    /// <summary>Starts one; skips the test with a remedy where there is none.</summary>
    internal static async Task<Browser> StartAsync()
    {
        string? program = s_programs.FirstOrDefault(File.Exists);
        Assert.SkipUnless(program is not null, "Needs a headless Chromium: eng/install-test-tools, or apt-get install chromium-headless-shell.");
        string profile = Directory.CreateTempSubdirectory("postcopy-browser-").FullName;
        ProcessStartInfo start = new(program!, ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
            "--remote-debugging-port=0", $"--user-data-dir={profile}", "about:blank"])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        Browser browser = new(Process.Start(start)!, profile);
        try
        {
            const string Marker = "DevTools listening on ";
            string? line;
            do
            {
                line = await browser._process.StandardError.ReadLineAsync(browser._end.Token)
                    ?? throw new InvalidOperationException($"{program} ended before it was ready.");
            }
            while (!line.StartsWith(Marker, StringComparison.Ordinal));

            // Nobody reads what follows otherwise, and a full pipe would stop it.
            browser._process.BeginOutputReadLine();
            _ = browser._process.StandardError.BaseStream.CopyToAsync(Stream.Null);
            await browser._socket.ConnectAsync(new Uri(line[Marker.Length..]), browser._end.Token);
            JsonNode target = await browser.CallAsync("Target.createTarget", new JsonObject { ["url"] = "about:blank" });
            JsonNode session = await browser.CallAsync("Target.attachToTarget", new JsonObject { ["targetId"] = (string)target["targetId"]!, ["flatten"] = true });
            browser._session = (string)session["sessionId"]!;
            foreach (string domain in (string[])["Page", "Runtime", "Log", "Network"])
            {
                _ = await browser.CallAsync(domain + ".enable");
            }

            return browser;
        }
        catch
        {
            await browser.DisposeAsync();
            throw;
        }
    }

    /// <summary>Loads a file and waits until it has been laid out.</summary>
    internal async Task LoadAsync(string path, bool dark = false, int width = 1160)
    {
        _complaints.Clear();
        _requests.Clear();
        _ = await CallAsync("Emulation.setDeviceMetricsOverride", new JsonObject { ["width"] = width, ["height"] = 800, ["deviceScaleFactor"] = 1, ["mobile"] = false });
        _ = await CallAsync("Emulation.setEmulatedMedia", new JsonObject
        {
            ["features"] = new JsonArray(new JsonObject { ["name"] = "prefers-color-scheme", ["value"] = dark ? "dark" : "light" }),
        });
        string url = new Uri(path).AbsoluteUri;
        _ = await CallAsync("Page.navigate", new JsonObject { ["url"] = url });
        while (await EvaluateAsync<string>("document.readyState + ' ' + location.href") != "complete " + url)
        {
            await Task.Delay(20, _end.Token);
        }

        _ = await EvaluateAsync<bool>("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))");
    }

    /// <summary>The value of an expression, or of the promise that it is.</summary>
    internal async Task<T> EvaluateAsync<T>(string expression)
    {
        JsonNode answer = await CallAsync("Runtime.evaluate", new JsonObject { ["expression"] = expression, ["returnByValue"] = true, ["awaitPromise"] = true });
        return answer["exceptionDetails"] is { } exception
            ? throw new InvalidOperationException(exception.ToJsonString())
            : answer["result"]!["value"].Deserialize<T>()!;
    }

    /// <summary>The whole page as a PNG.</summary>
    internal async Task PictureAsync(string path)
    {
        JsonNode answer = await CallAsync("Page.captureScreenshot", new JsonObject { ["format"] = "png", ["captureBeyondViewport"] = true });
        await File.WriteAllBytesAsync(path, Convert.FromBase64String((string)answer["data"]!), _end.Token);
    }

    public async ValueTask DisposeAsync()
    {
        _socket.Dispose();
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
            await _process.WaitForExitAsync();
        }

        _process.Dispose();
        _end.Dispose();
        Directory.Delete(_profile, recursive: true);
    }

    private async Task<JsonNode> CallAsync(string method, JsonObject? parameters = null)
    {
        int id = ++_lastId;
        JsonObject call = new() { ["id"] = id, ["method"] = method, ["params"] = parameters ?? [] };
        if (_session is not null)
        {
            call["sessionId"] = _session;
        }

        await _socket.SendAsync(Encoding.UTF8.GetBytes(call.ToJsonString()), WebSocketMessageType.Text, endOfMessage: true, _end.Token);
        while (true)
        {
            JsonNode message = await ReceiveAsync();
            if ((int?)message["id"] == id)
            {
                return message["result"] ?? throw new InvalidOperationException($"{method}: {message.ToJsonString()}");
            }

            Note((string?)message["method"], message["params"]);
        }
    }

    private async Task<JsonNode> ReceiveAsync()
    {
        using MemoryStream whole = new();
        byte[] buffer = new byte[1 << 16];
        WebSocketReceiveResult part;
        do
        {
            part = await _socket.ReceiveAsync(buffer, _end.Token);
            whole.Write(buffer, 0, part.Count);
        }
        while (!part.EndOfMessage);

        return JsonNode.Parse(whole.GetBuffer().AsSpan(0, (int)whole.Length))!;
    }

    private void Note(string? method, JsonNode? parameters)
    {
        switch (method)
        {
            case "Network.requestWillBeSent":
                _requests.Add((string)parameters!["request"]!["url"]!);
                break;
            case "Runtime.consoleAPICalled" or "Runtime.exceptionThrown" or "Log.entryAdded":
                _complaints.Add(parameters!.ToJsonString());
                break;
            default:
                break;
        }
    }
}
