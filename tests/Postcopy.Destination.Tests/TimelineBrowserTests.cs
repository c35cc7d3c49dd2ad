using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Tests.Blocktime;

namespace Postcopy.Destination.Tests;

/// <summary>The pictures as a person sees them. POSTCOPY_PICTURES=FOLDER keeps the files and screenshots.</summary>
public sealed class TimelineBrowserTests : IDisposable
{
    private const int Limit = 120_000;

    // Every text with its box on the page; the ink is lower than the box of a font, so a box is trimmed.
    private const string Overlaps = """
        (() => {
          const boxes = [...document.querySelectorAll('svg.pcu text')].filter(t => t.textContent.trim()).map(t => {
            const b = t.getBBox();
            return { text: t.textContent, x: b.x, y: b.y + b.height * 0.2, right: b.x + b.width, bottom: b.y + b.height * 0.85 };
          });
          const view = document.querySelector('svg.pcu').viewBox.baseVal;
          const wrong = boxes.filter(b => b.x < 0 || b.y < 0 || b.right > view.width || b.bottom > view.height).map(b => 'outside: ' + b.text);
          for (let i = 0; i < boxes.length; i++)
            for (let j = i + 1; j < boxes.length; j++) {
              const a = boxes[i], b = boxes[j];
              if (a.x < b.right && b.x < a.right && a.y < b.bottom && b.y < a.bottom) wrong.push(a.text + ' over ' + b.text);
            }
          return wrong;
        })()
        """;

    private static readonly string? s_keep = Environment.GetEnvironmentVariable("POSTCOPY_PICTURES");

    private readonly string _folder = s_keep is null ? Directory.CreateTempSubdirectory("postcopy-picture-").FullName : Directory.CreateDirectory(s_keep).FullName;

    public void Dispose()
    {
        if (s_keep is null)
        {
            Directory.Delete(_folder, recursive: true);
        }
    }

    [Fact(Timeout = Limit)]
    public async Task PicturesOfTwoToSixtyFourVcpusAreReadableAndAskForNothing()
    {
        await using Browser browser = await Browser.StartAsync();
        foreach ((int vcpus, int faults, string? name) in ((int, int, string?)[])[(1, 1, null), (2, 400, "a long name of a vCPU"), (8, 20_000, null), (64, 1_000_000, null), (130, 3_000, null)])
        {
            BlocktimeTimeline timeline = TimelineCases.Draw(vcpus, faults, firstName: name);
            foreach (string file in (string[])["svg", "html"])
            {
                string path = Write(timeline, string.Create(CultureInfo.InvariantCulture, $"{vcpus}-vcpus.{file}"));
                Assert.InRange(new FileInfo(path).Length, 4_000, 2_000_000);
                foreach (bool dark in (bool[])[false, true])
                {
                    await CheckAsync(browser, path, vcpus, dark);
                }
            }
        }
    }

    [Fact(Timeout = Limit)]
    public async Task AnEmptyTimelineAndOneThatWasCutShortAreReadable()
    {
        await using Browser browser = await Browser.StartAsync();
        using BlocktimeTracker empty = new();
        await CheckAsync(browser, Write(new BlocktimeTimeline(empty.Snapshot(1000)), "empty.svg"), 0, dark: false);
        BlocktimeReport cut = TimelineCases.Record(4, 5_000, 1, null, capacity: 2_000);
        await CheckAsync(browser, Write(new BlocktimeTimeline(cut), "cut.html"), 4, dark: true);
    }

    /// <summary>Writes a real run's picture elsewhere, such as docs/images/timeline.svg, and looks at it here.</summary>
    [Theory(Timeout = Limit)]
    [InlineData("svg")]
    [InlineData("html")]
    public async Task TheDestinationsOwnPictureIsReadable(string ending)
    {
        await using Browser browser = await Browser.StartAsync();
        string path = Path.Combine(_folder, "run." + ending);
        (int exit, _, string error) = await SampleProcess.RunAsync("--memory", "16M", "--vcpus", "3", "--timeline", path);
        Assert.True(exit == 0, error);
        await CheckAsync(browser, path, 3, dark: false);
    }

    private static string Colour(bool dark) => dark ? "rgb(13, 17, 23)" : "rgb(255, 255, 255)";

    private async Task CheckAsync(Browser browser, string path, int vcpus, bool dark)
    {
        await browser.LoadAsync(path, dark);
        Assert.Empty(browser.Complaints);
        Assert.Equal(new[] { new Uri(path).AbsoluteUri }, browser.Requests.Where(r => r != "data:,"));
        int lanes = await browser.EvaluateAsync<int>("document.querySelectorAll('svg.pcu g.lane.blocked').length");
        Assert.Equal(Math.Min(vcpus, BlocktimeTimeline.LaneLimit), lanes);

        // Each lane of these runs has something drawn in it, as high as a lane and not wider than the plot.
        bool drawn = await browser.EvaluateAsync<bool>("""
            [...document.querySelectorAll('svg.pcu g.lane.blocked')].every(g => g.querySelector('path.s1,path.s2,path.s3,path.s4') && g.getBoundingClientRect().width <= 890)
            """);
        Assert.True(drawn, $"{path}: a lane is empty or too wide");
        if (vcpus is > 0 and <= 3)
        {
            Assert.True(await browser.EvaluateAsync<bool>("document.querySelector('svg.pcu g.lane.overlap path.s4') !== null && document.querySelector('svg.pcu path.band') !== null"), $"{path}: no band");
        }

        Assert.Equal(Colour(dark), await browser.EvaluateAsync<string>("getComputedStyle(document.querySelector('svg.pcu .bg')).fill"));
        Assert.Empty(await browser.EvaluateAsync<string[]>(Overlaps));
        if (s_keep is not null)
        {
            await browser.PictureAsync($"{path}-{(dark ? "dark" : "light")}.png");
        }
    }

    private string Write(BlocktimeTimeline timeline, string name)
    {
        string path = Path.Combine(_folder, name);
        using StreamWriter writer = new(path);
        if (name.EndsWith("svg", StringComparison.Ordinal))
        {
            timeline.WriteSvg(writer);
        }
        else
        {
            timeline.WriteHtml(writer);
        }

        return path;
    }
}
