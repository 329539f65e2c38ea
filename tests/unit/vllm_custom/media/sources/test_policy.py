"""What may be fetched, as tables of attacks. Pure: nothing here opens a socket."""

from __future__ import annotations

import string
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from vllm_custom.contract.hosts import HostPattern, normalize_host
from vllm_custom.media.sources.addresses import AddressRule, refuse_address
from vllm_custom.media.sources.policy import MediaPolicy, Refusal, Target, loggable

LISTED = (
    "media.example",
    "*.cdn.example",
    "files.example:8443",
    "127.0.0.1",
    "10.0.0.5:9000",
    "[::1]",
    "bücher.example",
)
POLICY = MediaPolicy(tuple(HostPattern.parse(entry) for entry in LISTED))


def policy(*networks: str) -> MediaPolicy:
    return MediaPolicy(POLICY.domains, tuple(ip_network(text) for text in networks))


@pytest.mark.parametrize(
    ("url", "fetched"),
    [
        ("http://media.example/a.png", "http://media.example/a.png"),
        ("https://media.example/a.png", "https://media.example/a.png"),
        ("HTTPS://MEDIA.Example/A.png", "https://media.example/A.png"),
        (" http://media.example/a.png\n", "http://media.example/a.png"),
        ("http://media.example", "http://media.example/"),
        ("http://media.example?a=b", "http://media.example/?a=b"),
        ("http://media.example./a", "http://media.example/a"),  # the root's dot names the same host
        ("http://media.example:80/a", "http://media.example/a"),
        ("http://media.example:/a", "http://media.example/a"),
        ("https://media.example:443/a", "https://media.example/a"),
        ("http://media.example/a#fragment", "http://media.example/a"),
        ("http://media.example/a?x=@evil.example", "http://media.example/a?x=@evil.example"),
        ("http://media.example/@evil.example/", "http://media.example/@evil.example/"),
        # What a storage service has signed stays as it is.
        ("https://media.example/a%2Fb+c?sig=%3D%41+&x=[1]", "https://media.example/a%2Fb+c?sig=%3D%41+&x=[1]"),
        ("http://media.example/a b/图.png", "http://media.example/a%20b/%E5%9B%BE.png"),
        ("http://media.example/\\evil", "http://media.example/%5Cevil"),
        ("http://a.cdn.example/", "http://a.cdn.example/"),
        ("http://a.b.cdn.example/", "http://a.b.cdn.example/"),
        ("http://files.example:8443/", "http://files.example:8443/"),
        ("https://files.example:8443/", "https://files.example:8443/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),  # RFC 5891
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"),
        ("http://media\u3002example/", "http://media.example/"),  # ideographic full stop, RFC 3490, section 3.1
        ("http://10.0.0.5:9000/", "http://10.0.0.5:9000/"),
        ("http://[::1]/", "http://[::1]/"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
        # One address in the notations of inet_aton: the list means the address, however it is written.
        *((f"http://{text}/", "http://127.0.0.1/") for text in ("127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1")),
        *((f"http://{text}/", "http://127.0.0.1/") for text in ("2130706433", "0x7f000001", "017700000001", "0X7F.1")),
        ("http://①②⑦.⓪.⓪.①/", "http://127.0.0.1/"),  # UTS 46 maps them to digits
    ],
)
def test_urls_that_are_allowed_and_what_is_fetched(url: str, fetched: str) -> None:
    target = POLICY.check_url(url)
    assert isinstance(target, Target), target
    assert target.url == fetched
    # aiohttp reads the same out of it.
    read = URL(target.url, encoded=True)
    assert (read.scheme, read.raw_host, read.port) == (target.scheme, target.host, target.port)
    assert str(read) == fetched


@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        ("ftp://media.example/a", Refusal.SCHEME),
        ("file://media.example/a", Refusal.SCHEME),
        ("gopher://media.example:70/_x", Refusal.SCHEME),
        ("data://media.example/a", Refusal.SCHEME),
        ("vllm-custom-media://0", Refusal.SCHEME),
        # Not a URL with an authority (RFC 3986, section 3.2): parsers differ on what these mean.
        ("http:media.example/a", Refusal.MALFORMED),
        ("http:/media.example/a", Refusal.MALFORMED),
        ("http:\\\\media.example/a", Refusal.MALFORMED),
        ("http:///media.example/a", Refusal.MALFORMED),
        ("//media.example/a", Refusal.MALFORMED),
        ("http://", Refusal.MALFORMED),
        ("http://:80/", Refusal.MALFORMED),
        ("", Refusal.MALFORMED),
        # Credentials, and hosts hidden behind them.
        ("http://user@media.example/", Refusal.CREDENTIALS),
        ("http://user:secret@media.example/", Refusal.CREDENTIALS),
        ("http://@media.example/", Refusal.CREDENTIALS),
        ("http://:@media.example/", Refusal.CREDENTIALS),
        ("http://media.example@evil.example/", Refusal.CREDENTIALS),
        ("http://media.example:80@evil.example/", Refusal.CREDENTIALS),
        ("http://evil.example\\@media.example/", Refusal.CREDENTIALS),  # CVE-2018-3774 and its kind
        ("http://media.example%40evil.example/", Refusal.MALFORMED),
        ("http://evil.example\\.media.example/", Refusal.MALFORMED),
        ("http://media.example\uff20evil.example/", Refusal.MALFORMED),  # CVE-2019-9636: a fullwidth @
        ("http://media.example\uff0fevil.example/", Refusal.MALFORMED),  # CVE-2019-9636: a fullwidth /
        ("http://media.example\u2100.evil.example/", Refusal.MALFORMED),  # becomes a/c
        ("http://evil.example#@media.example/", Refusal.HOST),
        ("http://evil.example?@media.example/", Refusal.HOST),
        ("http://evil.example/@media.example", Refusal.HOST),
        # Control characters, where parsers cut or skip (CVE-2022-0391).
        ("http://media.example\r\nX: y/", Refusal.MALFORMED),
        ("http://media.example/a\r\nHost: evil.example", Refusal.MALFORMED),
        ("http://me\tdia.example/", Refusal.MALFORMED),
        ("http://media.example\0.evil.example/", Refusal.MALFORMED),
        ("ht\ntp://media.example/", Refusal.MALFORMED),
        ("http://media.example/\x7f", Refusal.MALFORMED),
        # Hosts that are like a listed one.
        ("http://evil.example/", Refusal.HOST),
        ("http://example/", Refusal.HOST),
        ("http://media.example.evil.example/", Refusal.HOST),
        ("http://evilmedia.example/", Refusal.HOST),
        ("http://sub.media.example/", Refusal.HOST),
        ("http://cdn.example/", Refusal.HOST),  # *.suffix is what is below
        ("http://evilcdn.example/", Refusal.HOST),
        ("http://mediа.example/", Refusal.HOST),  # a Cyrillic а
        ("http://127.0.0.1.evil.example/", Refusal.HOST),
        ("http://localhost/", Refusal.HOST),
        # Addresses that no entry names, in every notation.
        *((f"http://{text}/", Refusal.HOST) for text in ("127.0.0.2", "127.2", "2130706434", "0x7f000002", "0177.2")),
        *((f"http://{text}/", Refusal.HOST) for text in ("0", "0.0.0.0", "[::]", "169.254.169.254", "0xa9fea9fe")),
        ("http://[::ffff:127.0.0.1]/", Refusal.HOST),  # RFC 4291: the mapped form is another entry
        ("http://[::127.0.0.1]/", Refusal.HOST),
        # Numbers that are no address: some resolvers read them as names, some cut them.
        *((f"http://{text}/", Refusal.MALFORMED) for text in ("256.0.0.1", "127.0.0.1.1", "08.0.0.1", "4294967296")),
        *(
            (f"http://{text}/", Refusal.MALFORMED)
            for text in ("0x7g.1", "1.2.3.x.5", "1..2", "127.0.0.1%00", "127.0.0.1%2e", "+127.1")
        ),
        *(
            (f"http://{text}/", Refusal.MALFORMED)
            for text in ("[::1", "::1", "[::1]x", "[127.0.0.1]", "[]", "[::1%25lo]")
        ),
        *(
            (f"http://{text}/", Refusal.MALFORMED)
            for text in ("-a.example", "a-.example", "a..example", ".example", "a b")
        ),
        *(
            (f"http://{text}/", Refusal.MALFORMED)
            for text in ("a" * 64 + ".example", "a." * 127 + "example", "xn--a-ü")
        ),
        # Ports: the scheme's own, or the one that is listed.
        ("http://media.example:8080/", Refusal.PORT),
        ("http://media.example:443/", Refusal.PORT),
        ("https://media.example:80/", Refusal.PORT),
        ("http://media.example:22/", Refusal.PORT),
        ("http://files.example/", Refusal.PORT),
        ("http://10.0.0.5/", Refusal.PORT),
        ("http://media.example:0/", Refusal.MALFORMED),
        ("http://media.example:65616/", Refusal.MALFORMED),  # 80 modulo 65536
        ("http://media.example:80:80/", Refusal.MALFORMED),
        ("http://media.example:+80/", Refusal.MALFORMED),
        ("http://media.example:٨٠/", Refusal.MALFORMED),
        ("http://media.example/" + "a" * 8000, Refusal.MALFORMED),
        ("http://media.example/\udcff", Refusal.MALFORMED),
    ],
    ids=ascii,
)
def test_urls_that_are_refused_and_by_which_rule(url: str, refusal: Refusal) -> None:
    assert POLICY.check_url(url) is refusal


@pytest.mark.parametrize("url", ["http://media.example/", "https://127.0.0.1/", "http://[::1]/"])
def test_nothing_is_allowed_by_default(url: str) -> None:
    assert MediaPolicy().check_url(url) is Refusal.HOST


HERE = POLICY.check_url("https://media.example/folder/a.png?token=secret")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("b.png", "https://media.example/folder/b.png"),
        ("/b.png", "https://media.example/b.png"),
        ("?x=1", "https://media.example/folder/a.png?x=1"),
        ("//a.cdn.example/b", "https://a.cdn.example/b"),
        ("https://files.example:8443/b", "https://files.example:8443/b"),
        ("http://media.example/b", Refusal.DOWNGRADE),
        ("HTTP://media.example/b", Refusal.DOWNGRADE),
        ("https://evil.example/b", Refusal.HOST),
        ("//evil.example/b", Refusal.HOST),
        ("https://media.example:22/", Refusal.PORT),
        ("https://user@media.example/", Refusal.CREDENTIALS),
        ("//user@media.example/", Refusal.CREDENTIALS),
        ("file:///etc/passwd", Refusal.SCHEME),
        ("data:,x", Refusal.MALFORMED),
        # Without an authority of its own: the host stays, as RFC 3986, section 5.2.2, lets lenient parsers do.
        ("https:evil.example", "https://media.example/folder/evil.example"),
        ("https:///evil.example/", "https://media.example/evil.example/"),
        ("http:evil.example", Refusal.MALFORMED),
        ("\\\\evil.example/b", "https://media.example/folder/%5C%5Cevil.example/b"),  # a path here, and so fetched
        ("/\t/evil.example/b", Refusal.MALFORMED),  # skipped by browsers
        ("/b\r\nX: y", Refusal.MALFORMED),
        ("//[::1/", Refusal.MALFORMED),
        ("/\udcff", Refusal.MALFORMED),
    ],
)
def test_every_hop_is_judged_like_the_first(location: str, expected: str | Refusal) -> None:
    assert isinstance(HERE, Target)
    decision = POLICY.check_redirect(HERE, location, 1)
    assert (decision.url if isinstance(decision, Target) else decision) == expected


def test_three_hops_and_no_more() -> None:
    assert isinstance(HERE, Target)
    assert [isinstance(POLICY.check_redirect(HERE, "/b", hops), Target) for hops in (1, 2, 3, 4)] == [True] * 3 + [
        False
    ]
    assert POLICY.check_redirect(HERE, "/b", 4) is Refusal.REDIRECTS


@pytest.mark.parametrize(
    "address",
    # The last three carry a public IPv4 address: mapped, NAT64, 6to4.
    [
        "8.8.8.8",
        "192.0.1.1",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_public_addresses_are_dialled(address: str) -> None:
    assert refuse_address(ip_address(address), ()) is None


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("10.0.0.1", AddressRule.PRIVATE),  # RFC 1918
        ("172.16.0.1", AddressRule.PRIVATE),
        ("172.31.255.255", AddressRule.PRIVATE),
        ("192.168.1.1", AddressRule.PRIVATE),
        ("127.0.0.1", AddressRule.PRIVATE),  # RFC 1122
        ("127.255.255.254", AddressRule.PRIVATE),
        ("100.64.0.1", AddressRule.PRIVATE),  # RFC 6598
        ("192.0.0.1", AddressRule.PRIVATE),  # RFC 6890
        ("192.0.2.1", AddressRule.PRIVATE),  # RFC 5737
        ("192.88.99.1", AddressRule.PRIVATE),  # RFC 7526
        ("198.18.0.1", AddressRule.PRIVATE),  # RFC 2544
        ("198.51.100.1", AddressRule.PRIVATE),
        ("203.0.113.1", AddressRule.PRIVATE),
        ("240.0.0.1", AddressRule.PRIVATE),  # RFC 1112
        ("255.255.255.255", AddressRule.PRIVATE),  # RFC 919
        ("0.0.0.0", AddressRule.UNSPECIFIED),
        ("0.1.2.3", AddressRule.UNSPECIFIED),  # RFC 1122, section 3.2.1.3
        ("169.254.0.1", AddressRule.LINK_LOCAL),  # RFC 3927
        ("169.254.169.254", AddressRule.METADATA),
        ("169.254.170.2", AddressRule.METADATA),
        ("100.100.100.200", AddressRule.METADATA),
        ("168.63.129.16", AddressRule.METADATA),
        ("fd00:ec2::254", AddressRule.METADATA),
        ("169.254.42.42", AddressRule.METADATA),
        ("fd00:42::42", AddressRule.METADATA),
        ("169.254.0.23", AddressRule.METADATA),
        ("169.254.169.252", AddressRule.METADATA),
        ("100.96.0.96", AddressRule.METADATA),
        ("fd00:c1::a9fe:a9fe", AddressRule.METADATA),
        ("fe80::a9fe:a9fe%eth0", AddressRule.METADATA),
        ("224.0.0.1", AddressRule.MULTICAST),  # RFC 1112
        ("ff02::1", AddressRule.MULTICAST),
        ("::", AddressRule.UNSPECIFIED),
        ("::1", AddressRule.PRIVATE),
        ("fe80::1", AddressRule.LINK_LOCAL),
        ("fe80::1%eth0", AddressRule.LINK_LOCAL),
        ("fec0::1", AddressRule.PRIVATE),  # RFC 3879
        ("fc00::1", AddressRule.PRIVATE),  # RFC 4193
        ("fd12:3456::1", AddressRule.PRIVATE),
        ("2001:db8::1", AddressRule.PRIVATE),  # RFC 3849
        ("3fff::1", AddressRule.PRIVATE),  # RFC 9637
        ("100::1", AddressRule.PRIVATE),  # RFC 6666
        ("4000::1", AddressRule.PRIVATE),  # given to nobody
        ("5f00::1", AddressRule.PRIVATE),  # RFC 9602
        # IPv4 inside IPv6.
        ("::ffff:127.0.0.1", AddressRule.PRIVATE),  # RFC 4291, section 2.5.5.2
        ("::ffff:10.0.0.1", AddressRule.PRIVATE),
        ("::ffff:169.254.169.254", AddressRule.METADATA),
        ("::ffff:0.0.0.0", AddressRule.UNSPECIFIED),
        ("::127.0.0.1", AddressRule.PRIVATE),  # RFC 4291, section 2.5.5.1
        ("::8.8.8.8", AddressRule.PRIVATE),  # withdrawn, so never a server
        ("::ffff:0:127.0.0.1", AddressRule.PRIVATE),  # RFC 2765
        ("64:ff9b::7f00:1", AddressRule.PRIVATE),  # RFC 6052
        ("64:ff9b::a9fe:a9fe", AddressRule.METADATA),
        ("64:ff9b:1::808:808", AddressRule.PRIVATE),  # RFC 8215, NAT64 of one network
        ("2002:7f00:1::", AddressRule.PRIVATE),  # RFC 3056
        ("2002:a9fe:a9fe::1", AddressRule.METADATA),
        ("2001:0:808:808:0:0:f5ff:fffe", AddressRule.PRIVATE),  # RFC 4380, client 10.0.0.1
        ("2001:0:808:808:0:0:f7f7:f7f7", AddressRule.PRIVATE),  # client 8.8.8.8: Teredo all the same
        ("2606:4700::5efe:10.0.0.1", AddressRule.PRIVATE),  # RFC 5214
        ("2606:4700::200:5efe:127.0.0.1", AddressRule.PRIVATE),
    ],
)
def test_addresses_that_are_not_dialled_by_default(address: str, rule: AddressRule) -> None:
    assert refuse_address(ip_address(address), ()) is rule


EVERYTHING = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    ("address", "networks", "rule"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], None),
        ("11.1.2.3", ["11.0.0.0/8"], None),
        ("192.168.0.1", ["10.0.0.0/8"], AddressRule.PRIVATE),
        ("127.0.0.1", ["127.0.0.1/32"], None),
        ("127.0.0.2", ["127.0.0.1/32"], AddressRule.PRIVATE),
        ("::1", ["::1/128"], None),
        ("::1", ["127.0.0.0/8"], AddressRule.PRIVATE),
        ("fd12::1", ["fd00::/8"], None),
        ("10.1.2.3", EVERYTHING, None),
        # The mapped form reaches the IPv4 address, and only its network opens it.
        ("::ffff:10.0.0.1", ["10.0.0.0/8"], None),
        ("::ffff:10.0.0.1", ["::/0"], AddressRule.PRIVATE),
        ("64:ff9b::a00:1", ["10.0.0.0/8"], None),
        ("64:ff9b::a00:1", ["64:ff9b::/96"], AddressRule.PRIVATE),
        ("2002:a00:1::", ["2002::/16"], AddressRule.PRIVATE),
        # A wide network does not mean these.
        ("169.254.1.1", EVERYTHING, AddressRule.LINK_LOCAL),
        ("fe80::1", EVERYTHING, AddressRule.LINK_LOCAL),
        ("224.0.0.1", EVERYTHING, AddressRule.MULTICAST),
        ("0.0.0.0", EVERYTHING, AddressRule.UNSPECIFIED),
        ("::", EVERYTHING, AddressRule.UNSPECIFIED),
        ("169.254.1.1", ["169.254.1.0/24"], None),
        ("fe80::1", ["fe80::/64"], None),
        # And nothing means the metadata services.
        ("169.254.169.254", ["169.254.169.254/32"], AddressRule.METADATA),
        ("::ffff:169.254.169.254", [*EVERYTHING, "169.254.0.0/16"], AddressRule.METADATA),
        ("100.100.100.200", ["100.64.0.0/10"], AddressRule.METADATA),
        ("fd00:ec2::254", ["fd00::/8"], AddressRule.METADATA),
    ],
)
def test_listed_networks_open_what_they_name(address: str, networks: list[str], rule: AddressRule | None) -> None:
    assert refuse_address(ip_address(address), [ip_network(text) for text in networks]) is rule


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [
        (["8.8.8.8", "2606:4700::1"], True),
        (["8.8.8.8", "127.0.0.1"], False),
        (["::1", "8.8.8.8"], False),
        (["8.8.8.8", "not an address"], False),
        (["10.0.0.1", "8.8.8.8"], True),
    ],
)
def test_one_bad_address_is_enough(addresses: list[str], allowed: bool) -> None:
    assert (policy("10.0.0.0/8").check_addresses(addresses) is None) is allowed


def test_reasons_are_given_for_every_rule_and_name_no_address() -> None:
    for rule in Refusal:
        assert rule.reason
        assert not any(digit in rule.reason for digit in ("10.", "127.", "169.", "::"))


@given(st.text(st.sampled_from(string.printable + "。①＠ü\udcff"), max_size=60))
def test_any_host_is_refused_or_normal_and_stays_so(text: str) -> None:
    host = normalize_host(text)
    if host is not None:
        assert host.isascii()
        assert normalize_host(f"[{host}]" if ":" in host else host) == host
        assert not set(host) & set("/?#@\\%[] ")


@given(st.text(st.sampled_from(string.printable + "。①＠ü\udcff"), max_size=80))
def test_any_text_after_the_scheme_is_refused_or_read_alike_by_aiohttp(text: str) -> None:
    anything = MediaPolicy(
        (HostPattern("example", include_subdomains=True), HostPattern("1.2.3.4"), HostPattern("::1"))
    )
    for url in (f"http://{text}", f"http://{text}.example/", f"http://a.example{text}", f"http://a.example/{text}"):
        target = anything.check_url(url)
        if isinstance(target, Target):
            read = URL(target.url, encoded=True)
            assert (read.scheme, read.raw_host, read.port) == (target.scheme, target.host, target.port)
            assert (read.user, read.password) == (None, None)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://media.test/a.png", "http://media.test/a.png"),
        (" HTTP://media.test:80/a.png?token=secret#part", "HTTP://media.test:80/a.png"),
        ("https://user:secret@media.test/a.png", "https://media.test/a.png"),
        ("https://a@b:secret@media.test?secret", "https://media.test"),
        ("http://b\xfccher.test/\u2028a", "http://b\\xfccher.test/\\u2028a"),
    ],
)
def test_what_logs_show_of_a_url(url: str, shown: str) -> None:
    assert loggable(url) == shown
    assert len(loggable(url + "/x" * 4000)) <= 200
