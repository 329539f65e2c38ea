"""Parameters of media: where they may come from, and what they may take."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vllm_custom.contract.declare import config_parameter
from vllm_custom.contract.hosts import HostPattern, parse_network
from vllm_custom.contract.image_formats import KNOWN_FORMATS, SAFE_FORMATS, parse_format


def _folder(text: str) -> str:
    path = Path(text)
    if text and not (path.is_absolute() and path.is_dir() and path.resolve() != Path("/")):
        raise ValueError(text)
    return text


def _file(text: str) -> str:
    path = Path(text)
    if text and not (path.is_absolute() and path.is_file()):
        raise ValueError(text)
    return text


class MediaParameters(BaseModel):
    """Parameters of images, videos and audio."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    media_max_bytes: int = config_parameter(
        64 * 1024 * 1024, "Largest encoded image, video or audio.", minimum=1, unit="bytes"
    )
    image_max_pixels: int = config_parameter(
        50_000_000,
        "Largest image or video frame, width times height, checked in the header before anything is decoded.",
        minimum=1,
        unit="pixels",
    )
    image_formats: tuple[str, ...] = config_parameter(
        SAFE_FORMATS,
        f"Kinds of image files that are decoded, by Pillow's names, separated by commas. Further ones: "
        f"{', '.join(name for name in KNOWN_FORMATS if name not in SAFE_FORMATS)}.",
        minimum=1,
        parse=parse_format,
        allowed=f"a list of names such as {', '.join(SAFE_FORMATS)}, JPEG2000",
    )
    video_max_frames: int = config_parameter(
        32, "Frames taken from a video, spread evenly over it.", minimum=1, unit="frames"
    )
    video_max_pixels: int = config_parameter(
        10_000_000_000,
        "Longest video: width times height times number of frames, checked in the header before anything is decoded, "
        "since all frames up to the last one taken have to be decoded. The default is about 160 s of 1920 x 1080 at "
        "30 frames per second. Frames below 256 x 256 count as 256 x 256; animations (GIF, WebP, PNG) count ten times.",
        minimum=1,
        unit="pixels",
    )
    audio_max_seconds: int = config_parameter(
        600,
        "Longest audio, counted while it is decoded. At more than 96,000 samples per second in all channels together "
        "(48 kHz in stereo) the limit is proportionally shorter.",
        minimum=1,
        unit="seconds",
    )
    qwen_vl_utils: bool = config_parameter(
        False,
        "For Qwen2-VL, Qwen2.5-VL and Qwen3-VL: size every image and video, and choose the frames of videos, as the "
        "Python package qwen-vl-utils does. false: only in requests with a part in Qwen's form. See "
        "[media](guides/media.md).",
    )
    media_concurrency: int = config_parameter(
        4,
        "Processes that decode media, one item at a time each; the model's own process never decodes. They are started "
        "when they are needed, and then kept.",
        minimum=1,
    )
    media_decode_seconds: int = config_parameter(
        30, "Time to decode one item; after that its process is ended.", minimum=1, unit="seconds"
    )
    media_worker_bytes: int = config_parameter(
        4 * 1024**3, "Memory that a process may take to decode one item.", minimum=64 * 1024**2, unit="bytes"
    )
    media_request_bytes: int = config_parameter(
        1024**3,
        "Decoded size of all media of one request together (images: width times height times 4; frames: times 3; "
        "audio: samples times 4), checked in the headers before anything is decoded. Cached media do "
        "not count. Its files, counted as they arrive, have the same limit.",
        minimum=1,
        unit="bytes",
    )
    media_inflight_bytes: int = config_parameter(
        4 * 1024**3,
        "The same for all requests of the model until their prompts are rendered, and as much again for what their "
        "files may have until they are decoded; further requests wait in order. At least MEDIA_REQUEST_BYTES.",
        minimum=1,
        unit="bytes",
    )
    media_max_items: int = config_parameter(
        128,
        "Images, videos and audio of one prompt together; limit_mm_per_prompt in model.json limits each kind.",
        minimum=1,
    )
    media_cache_bytes: int = config_parameter(
        256 * 1024 * 1024,
        "Cache of decoded media by a hash of their content, so that repeated media are decoded once; the least "
        "recently used are evicted first. 0: no cache.",
        unit="bytes",
    )
    allowed_media_domains: tuple[HostPattern, ...] = config_parameter(
        (),
        "Hosts that media may be fetched from, separated by commas: `host`, `*.suffix`, either with `:port` (else the "
        "scheme's default port only). Empty: no URL is fetched. See [security](security.md).",
        parse=HostPattern.parse,
        allowed="a list of host, *.suffix, host:port or *.suffix:port",
    )
    allowed_media_networks: tuple[IPv4Network | IPv6Network, ...] = config_parameter(
        (),
        "Networks that may be connected to although their addresses are not public, in CIDR notation, separated by "
        "commas, such as `10.0.0.0/8`.",
        parse=parse_network,
        allowed="a list of networks in CIDR notation without host bits, such as 10.0.0.0/8",
    )
    allowed_local_media_path: str = config_parameter(
        "",
        "Folder that file: URLs may read from, including everything below it. Not set: no file: URL is read.",
        parse=_folder,
        allowed="the absolute path of a folder, other than /",
    )
    media_fetch_timeout_seconds: int = config_parameter(
        30,
        "Time for one URL, from the look-up of its host to the last byte, including redirects.",
        minimum=1,
        unit="seconds",
    )
    media_fetch_concurrency: int = config_parameter(
        32, "URLs that are fetched at the same time; the others wait.", minimum=1
    )
    media_ca_file: str = config_parameter(
        "",
        "Certificates, as PEM, of authorities that servers of https: URLs may be certified by, in addition to the "
        "system's.",
        parse=_file,
        allowed="the absolute path of a file",
    )
    media_client_certificate_file: str = config_parameter(
        "",
        "Certificate with its chain, as PEM, that the server shows to media servers that ask for one.",
        parse=_file,
        allowed="the absolute path of a file",
    )
    media_client_key_file: str = config_parameter(
        "",
        "Private key of MEDIA_CLIENT_CERTIFICATE_FILE, as PEM without a password. Not set: it is in the same file.",
        parse=_file,
        allowed="the absolute path of a file",
    )
    media_url_cache_bytes: int = config_parameter(
        0,
        "Cache of files fetched by URL, as far as their servers allow it (Cache-Control, ETag). 0: no cache, each URL "
        "is fetched each time.",
        unit="bytes",
    )
