package mask

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// IPForm says what kind of column holds the address.
type IPForm int

// The forms of IPPrefix.
const (
	IPInet IPForm = iota // type inet: an address, perhaps with a netmask, which is dropped
	IPCIDR               // type cidr: a network; its length stays, since the type needs one
	IPText               // a text type
)

// IPMaxLen is the longest text that IPPrefix makes, in characters; IPCIDR adds up to four for the length.
const IPMaxLen = 39

// NoIP is what IPPrefix makes of a text that is no address: a run does not stop on it, and nothing of it is shown.
const NoIP = "0.0.0.0"

// IPPrefix is the strategy ip_prefix: it keeps the first v4 bits of an IPv4 address, or the first v6 bits of an IPv6
// address, zeroes the rest and prints a plain address as type inet does. An IPv4-mapped address (::ffff:10.1.2.3)
// counts as IPv4 and stays mapped. In a text column, an address may have a netmask, a zone, a port or blanks around it,
// all of which are dropped; any other text becomes NoIP. In inet and cidr columns it is an error.
//
// Transition addresses keep what stands in their first bits: a 6to4 address (2002::/16) holds the IPv4 address in bits
// 17 to 48.
func IPPrefix(v4, v6 int, form IPForm) (Func, error) {
	if v4 < 0 || v4 > 32 || v6 < 0 || v6 > 128 {
		return nil, fmt.Errorf("ip_prefix keeps 0 to 32 bits of IPv4 and 0 to 128 of IPv6, not %d and %d", v4, v6)
	}
	if form != IPInet && form != IPCIDR && form != IPText {
		return nil, fmt.Errorf("ip_prefix has no form %d", form)
	}
	return func(dst, value []byte) ([]byte, bool, error) {
		text := value
		if form == IPText {
			text = plainAddress(value)
		}
		text, length, hasLength := bytes.Cut(text, []byte{'/'})
		addr, ok := parseIP(text)
		bits := addr.BitLen()
		n := bits
		if hasLength {
			n, ok = parseLength(length, bits, ok)
		}
		if !ok {
			if form == IPText {
				return append(dst, NoIP...), false, nil
			}
			return dst, false, errors.New("ip_prefix: the value is not an IP address as types inet and cidr print it")
		}
		keep := v6
		switch {
		case addr.Is4():
			keep = v4
		case addr.Is4In6():
			keep = 96 + v4
		}
		dst = appendIP(dst, zeroAfter(addr, keep))
		if form == IPCIDR {
			dst = append(dst, '/')
			dst = strconv.AppendInt(dst, int64(n), 10)
		}
		return dst, false, nil
	}, nil
}

// plainAddress takes blanks, zone, brackets and port off an address in a text.
func plainAddress(s []byte) []byte {
	s = bytes.TrimSpace(s)
	if len(s) > 0 && s[0] == '[' {
		host, port, ok := bytes.Cut(s[1:], []byte{']'})
		if !ok || len(port) > 0 && !isPort(port) {
			return nil
		}
		s = host
	} else if i := bytes.IndexByte(s, ':'); i >= 0 && bytes.IndexByte(s[:i], '.') >= 0 && isPort(s[i:]) {
		s = s[:i] // 10.1.2.3:80; an IPv6 address has no dot before its first colon
	}
	if i := bytes.IndexByte(s, '%'); i >= 0 {
		_, length, ok := bytes.Cut(s[i:], []byte{'/'})
		if ok && len(length) > 0 {
			return nil // fe80::1%eth0/64 is not an address anywhere
		}
		s = s[:i]
	}
	return s
}

func isPort(s []byte) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return false
	}
	for _, c := range s[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func parseLength(s []byte, bits int, ok bool) (int, bool) {
	if !ok || len(s) == 0 || len(s) > 3 {
		return 0, false
	}
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, n <= bits
}

// parseIP is netip.ParseAddr for bytes, without its allocations, and without zones.
func parseIP(s []byte) (netip.Addr, bool) {
	if bytes.IndexByte(s, ':') < 0 {
		a, ok := parseIPv4(s)
		return netip.AddrFrom4(a), ok
	}
	var a [16]byte
	n := 0         // bytes read
	ellipsis := -1 // byte position of ::
	if bytes.HasPrefix(s, []byte("::")) {
		ellipsis = 0
		s = s[2:]
	}
	for len(s) > 0 {
		group, digits := 0, 0
		for digits < len(s) && digits < 5 {
			h := hexValue(s[digits])
			if h < 0 {
				break
			}
			group = group<<4 | h
			digits++
		}
		if digits < len(s) && s[digits] == '.' { // the last four bytes, dotted
			v4, ok := parseIPv4(s)
			if !ok || n > 12 || n != 12 && ellipsis < 0 {
				return netip.Addr{}, false
			}
			n += copy(a[n:], v4[:])
			break
		}
		if digits == 0 || digits > 4 || n == 16 {
			return netip.Addr{}, false
		}
		a[n], a[n+1] = byte(group>>8), byte(group)
		n += 2
		s = s[digits:]
		if len(s) == 0 {
			break
		}
		if s[0] != ':' || len(s) == 1 {
			return netip.Addr{}, false
		}
		s = s[1:]
		if s[0] == ':' {
			if ellipsis >= 0 {
				return netip.Addr{}, false
			}
			ellipsis = n
			s = s[1:]
		}
	}
	switch {
	case n == 16 && ellipsis >= 0, n < 16 && ellipsis < 0:
		return netip.Addr{}, false
	case n < 16:
		tail := n - ellipsis
		copy(a[16-tail:], a[ellipsis:n])
		clear(a[ellipsis : 16-tail])
	}
	return netip.AddrFrom16(a), true
}

func parseIPv4(s []byte) (a [4]byte, ok bool) {
	for i := range a {
		n, digits := 0, 0
		for digits < len(s) && digits < 3 && s[digits] >= '0' && s[digits] <= '9' {
			n = n*10 + int(s[digits]-'0')
			digits++
		}
		if digits == 0 || n > 255 || digits > 1 && s[0] == '0' {
			return a, false
		}
		a[i] = byte(n)
		s = s[digits:]
		if i < 3 {
			if len(s) == 0 || s[0] != '.' {
				return a, false
			}
			s = s[1:]
		}
	}
	return a, len(s) == 0
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// zeroAfter keeps the first keep bits. (netip's Prefix would take the zone and the mapped form away.)
func zeroAfter(addr netip.Addr, keep int) netip.Addr {
	if addr.Is4() {
		a := addr.As4()
		zeroBits(a[:], keep)
		return netip.AddrFrom4(a)
	}
	a := addr.As16()
	zeroBits(a[:], keep)
	return netip.AddrFrom16(a)
}

func zeroBits(a []byte, keep int) {
	for i := range a {
		switch bit := i * 8; {
		case bit >= keep:
			a[i] = 0
		case bit+8 > keep:
			a[i] &= 0xff << (bit + 8 - keep)
		}
	}
}

// appendIP prints an address as the server does: like netip, but for IPv4-compatible ones (::1.2.3.4).
func appendIP(dst []byte, addr netip.Addr) []byte {
	if addr.Is6() {
		a := addr.As16()
		if [12]byte(a[:12]) == [12]byte{} && (a[12] != 0 || a[13] != 0) {
			return netip.AddrFrom4([4]byte(a[12:])).AppendTo(append(dst, "::"...))
		}
	}
	return addr.AppendTo(dst)
}
