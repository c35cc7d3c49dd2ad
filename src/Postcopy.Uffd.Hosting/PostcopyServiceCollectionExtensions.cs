using System.Diagnostics.CodeAnalysis;
using System.Diagnostics.Metrics;
using System.Runtime.Versioning;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;
using Postcopy.Uffd.Hosting;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Registers postcopy destinations.</summary>
[SupportedOSPlatform("linux")]
public static class PostcopyServiceCollectionExtensions
{
    /// <summary>
    /// Adds a destination that listens when the host starts: a hosted service, its validated options, and
    /// <see cref="PostcopyReceiver"/> to look at it. Metrics go to the host's <see cref="IMeterFactory"/> if it has one.
    /// </summary>
    /// <typeparam name="TGuest">The machine that arrives; made once, by dependency injection.</typeparam>
    /// <param name="services">The host's services.</param>
    /// <param name="configure">Sets the options.</param>
    /// <returns>The services.</returns>
    /// <exception cref="ArgumentException">There is a destination without a name already.</exception>
    public static IServiceCollection AddPostcopyDestination<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] TGuest>(
        this IServiceCollection services, Action<PostcopyHostingOptions>? configure)
        where TGuest : class, IPostcopyGuest =>
        services.AddPostcopyDestination<TGuest>(Options.Options.DefaultName, configure);

    /// <summary>
    /// Adds a destination whose options come from elsewhere, such as <c>services.Configure</c> with a section; otherwise as
    /// <see cref="AddPostcopyDestination{TGuest}(IServiceCollection, Action{PostcopyHostingOptions}?)"/>.
    /// </summary>
    /// <typeparam name="TGuest">The machine that arrives; made once, by dependency injection.</typeparam>
    /// <param name="services">The host's services.</param>
    /// <returns>The services.</returns>
    /// <exception cref="ArgumentException">There is a destination without a name already.</exception>
    public static IServiceCollection AddPostcopyDestination<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] TGuest>(
        this IServiceCollection services)
        where TGuest : class, IPostcopyGuest =>
        services.AddPostcopyDestination<TGuest>(configure: null);

    /// <summary>Adds one of several destinations of a host; its services are keyed by the name, and its options have that name.</summary>
    /// <typeparam name="TGuest">The machine that arrives; made once, by dependency injection.</typeparam>
    /// <param name="services">The host's services.</param>
    /// <param name="name">The virtual machine's name, also the attribute <c>postcopy.vm</c> of its metrics.</param>
    /// <param name="configure">Sets the options; null when they come from elsewhere.</param>
    /// <returns>The services.</returns>
    /// <exception cref="ArgumentException">There is a destination of that name already.</exception>
    public static IServiceCollection AddPostcopyDestination<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] TGuest>(
        this IServiceCollection services, string name, Action<PostcopyHostingOptions>? configure)
        where TGuest : class, IPostcopyGuest
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(name);
        if (services.Any(s => s.IsKeyedService && s.ServiceType == typeof(PostcopyReceiver) && name.Equals(s.ServiceKey)))
        {
            throw new ArgumentException($"There is a postcopy destination '{name}' already; give each its own name.", nameof(name));
        }

        OptionsBuilder<PostcopyHostingOptions> options = services.AddOptions<PostcopyHostingOptions>(name).ValidateOnStart();
        if (configure is not null)
        {
            _ = options.Configure(configure);
        }

        services.TryAddEnumerable(ServiceDescriptor.Singleton<IValidateOptions<PostcopyHostingOptions>, PostcopyHostingOptionsValidator>());
        services.AddKeyedSingleton<IPostcopyGuest, TGuest>(name);
        services.AddKeyedSingleton(name, static (provider, key) => new PostcopyReceiver(
            (string)key!,
            provider.GetRequiredService<IOptionsMonitor<PostcopyHostingOptions>>().Get((string)key!),
            provider.GetRequiredKeyedService<IPostcopyGuest>(key),
            provider.GetService<ILoggerFactory>() ?? NullLoggerFactory.Instance,
            provider.GetService<IMeterFactory>(),
            provider.GetService<IHostApplicationLifetime>()));
        if (name.Length == 0)
        {
            services.AddSingleton(static provider => provider.GetRequiredKeyedService<PostcopyReceiver>(Options.Options.DefaultName));
        }

        return services.AddSingleton<IHostedService>(provider => provider.GetRequiredKeyedService<PostcopyReceiver>(name));
    }
}
