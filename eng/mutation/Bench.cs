namespace Postcopy.Mutation;

/// <summary>Products and copies of test programs, made when they are needed first.</summary>
internal sealed class Bench(string root) : IDisposable
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(10);

    private readonly Dictionary<string, Product> _products = [];
    private readonly Dictionary<string, TestRun> _tests = [];
    private readonly Dictionary<string, double> _green = [];

    internal Product Product(string name)
    {
        if (!_products.TryGetValue(name, out Product? product))
        {
            _products.Add(name, product = Mutation.Product.Load(root, name));
        }

        return product;
    }

    internal TestRun Tests(string project)
    {
        if (!_tests.TryGetValue(project, out TestRun? tests))
        {
            _tests.Add(project, tests = new TestRun(root, project));
            foreach (string product in new[] { "Postcopy.Uffd", "Postcopy.Uffd.Qemu" })
            {
                // Fresh, so that the unchanged product is the source's and not that of some earlier build.
                if (File.Exists(Path.Combine(tests.Folder, $"{product}.dll")) && Product(product).Emit(tests.Folder) is { } error)
                {
                    throw new MutationException($"{product} does not compile: {error}");
                }
            }
        }

        return tests;
    }

    /// <summary>A failure says something only of tests that pass on the unchanged product; the answer is how long they take.</summary>
    internal double RequireGreen(string project, IReadOnlyList<string> classes)
    {
        string key = $"{project}: {string.Join(' ', classes)}";
        if (!_green.TryGetValue(key, out double seconds))
        {
            TestAnswer answer = Tests(project).Run(classes, s_limit);
            if (answer.Verdict == Verdict.Failed)
            {
                // Once more: a test that fails by chance must not end the whole check.
                Console.WriteLine($"on the unchanged product {answer.By} failed once");
                answer = Tests(project).Run(classes, s_limit);
            }

            if (answer.Verdict != Verdict.Passed)
            {
                throw new MutationException($"On the unchanged product the tests {key} end with {answer.Verdict} {answer.By}; they must pass.");
            }

            _green.Add(key, seconds = answer.Seconds);
        }

        return seconds;
    }

    public void Dispose()
    {
        foreach (TestRun tests in _tests.Values)
        {
            tests.Dispose();
        }
    }
}
