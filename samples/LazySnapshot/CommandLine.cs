using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Numerics;
using Postcopy.Destination;

namespace LazySnapshot;

/// <summary>The command line: demo, capture, push, restore.</summary>
internal static class CommandLine
{
    private const long MostMemory = 1L << 40;

    internal static RootCommand Build()
    {
        RootCommand root = new(
            "Restores a memory image on demand: the guest runs at once, and what it touches is fetched from a store. " +
            "Without a command it runs a demonstration.")
        {
            Capture(), Push(), RestoreCommand(),
        };
        root.SetAction((_, cancellation) => Demo.RunAsync(cancellation));
        return root;
    }

    private static Command Capture()
    {
        Argument<string> image = ImageFile("File to write");
        Option<long> memory = Parsed<long>("--memory", "SIZE", "Size of the image [default: 256M]", 256L << 20, $"a size from 4K to {MostMemory >> 40}T, a multiple of 4K",
            static (string text, out long bytes) => Quantity.TryParse(text, out bytes) && bytes is > 0 and <= MostMemory && bytes % SeededContent.PageBytes == 0);
        Option<long> seed = Seed();
        Command command = new("capture", "Writes an image with content made from a seed, to try things on") { image, memory, seed };
        command.SetAction(parsed =>
        {
            Image.Capture(parsed.GetValue(image)!, parsed.GetValue(memory), parsed.GetValue(seed));
            return 0;
        });
        return command;
    }

    private static Command Push()
    {
        Argument<string> image = ImageFile("A raw memory image");
        Option<StoreAddress> store = Store(redisOnly: true);
        Option<string> name = Name();
        Command command = new("push", "Writes an image into a Redis or Valkey store, equal pages once") { image, store, name };
        command.SetAction(async (parsed, _) =>
        {
            await using FilePageStore file = FilePageStore.Open(parsed.GetValue(image)!);
            (long pages, long kept) = await RedisSnapshot.PushAsync(file, parsed.GetValue(store)!.Target, parsed.GetValue(name)!);
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"'{parsed.GetValue(name)}': {Quantity.Bytes(file.Length)}, {pages} pages with content, {kept} of them new to the store"));
            return 0;
        });
        return command;
    }

    private static Command RestoreCommand()
    {
        RestoreOptions defaults = new();
        Option<StoreAddress> store = Store(redisOnly: false);
        Option<string> name = Name();
        Option<int> vcpus = Number("--vcpus", "N", defaults.Vcpus, 0, 64, "Threads that touch the memory");
        Option<int> touch = Number("--touch", "PERCENT", defaults.TouchPercent, 0, 100, "How much of the memory they touch");
        Option<int> pace = Number("--pace", "MICROSECONDS", 0, 0, 1_000_000, "Time between two touches of a thread");
        Option<long> readahead = Parsed<long>("--readahead", "SIZE", "Bytes fetched around a missing page [default: 64K]", defaults.Readahead, "a power of two from 4K to 2M",
            static (string text, out long bytes) => Quantity.TryParse(text, out bytes) && bytes is >= SeededContent.PageBytes and <= 2 << 20 && BitOperations.IsPow2(bytes));
        Option<bool> noFill = new("--no-fill") { Description = "Do not fetch what was not touched" };
        Option<string?> record = new("--record") { HelpName = "PATH", Description = "Write the working set there" };
        Option<string?> replay = new("--replay") { HelpName = "PATH", Description = "Fetch a recorded working set ahead" };
        Option<string?> hash = new("--hash-file") { HelpName = "PATH", Description = "Write the SHA-256 of the restored memory there; not with --no-fill" };
        Option<long?> check = new("--check-seed") { HelpName = "N", Description = "The image was made by 'capture --seed N': compare every touch" };
        Command command = new("restore", "Restores an image while threads touch it") { store, name, vcpus, touch, pace, readahead, noFill, record, replay, hash, check };
        command.SetAction(async (parsed, cancellation) =>
        {
            if (parsed.GetValue(noFill) && parsed.GetValue(hash) is not null)
            {
                Console.Error.WriteLine("--hash-file: not allowed with --no-fill, which leaves pages missing.");
                return 2;
            }

            RestoreOptions options = new()
            {
                Vcpus = parsed.GetValue(vcpus),
                TouchPercent = parsed.GetValue(touch),
                Pace = TimeSpan.FromMicroseconds(parsed.GetValue(pace)),
                Readahead = (int)parsed.GetValue(readahead),
                Fill = !parsed.GetValue(noFill),
                Record = parsed.GetValue(record),
                Replay = parsed.GetValue(replay),
                HashFile = parsed.GetValue(hash),
                Seed = parsed.GetValue(check) ?? defaults.Seed,
                Check = parsed.GetValue(check) is not null,
            };
            await using IPageStore pages = await parsed.GetValue(store)!.OpenAsync(parsed.GetValue(name)!);
            await using Restore restore = new(pages, options, Console.Error);
            RestoreReport report = await restore.RunAsync(cancellation);
            report.Write(Console.Out);
            return report.WrongTouches == 0 ? 0 : 1;
        });
        return command;
    }

    private delegate bool Parser<T>(string text, out T value);

    private static Argument<string> ImageFile(string description) => new("image") { HelpName = "FILE", Description = description };

    private static Option<string> Name() => new("--name") { HelpName = "NAME", Description = "Name of the snapshot in a Redis store [default: snapshot]", DefaultValueFactory = _ => "snapshot" };

    private static Option<long> Seed() => Parsed("--seed", "N", "Seed of the content [default: 1]", 1L, "a whole number",
        static (string text, out long value) => long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out value));

    private static Option<StoreAddress> Store(bool redisOnly)
    {
        string allowed = redisOnly ? "redis:HOST:PORT[,HOST:PORT...]" : StoreAddress.Allowed;
        return new Option<StoreAddress>("--store")
        {
            HelpName = redisOnly ? "redis:HOST:PORT" : "file:PATH|redis:HOST:PORT",
            Description = "Where the pages are; several nodes of a Redis cluster are separated by commas",
            Required = true,
            CustomParser = result =>
            {
                StoreAddress? address = StoreAddress.TryParse(result.Tokens[0].Value);
                if (address is null || (redisOnly && !address.IsRedis))
                {
                    result.AddError($"--store: '{result.Tokens[0].Value}' is not allowed; give {allowed}.");
                }

                return address!;
            },
        };
    }

    private static Option<int> Number(string name, string help, int standard, int least, int most, string description) =>
        Parsed(name, help, $"{description} ({least} to {most}) [default: {standard}]", standard, $"a whole number from {least} to {most}",
            (string text, out int value) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value) && value >= least && value <= most);

    private static Option<T> Parsed<T>(string name, string help, string description, T standard, string allowed, Parser<T> parser) => new(name)
    {
        HelpName = help,
        Description = description,
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (!parser(text, out T value))
            {
                result.AddError($"{name}: '{text}' is not allowed; give {allowed}.");
            }

            return value;
        },
        DefaultValueFactory = _ => standard,
    };
}
