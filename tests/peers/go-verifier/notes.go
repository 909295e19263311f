package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Types of keys (SPEC §10.2).
const (
	typeEd25519   = 0x01
	typeCosigner  = 0x04
	typeMLDSA     = 0x06
	mldsaPublic   = 1312
	mldsaSigned   = 2420
	maxNote       = 1_000_000
	maxSignatures = 100
)

type key struct {
	text, name, id string
	kind           byte
	public         []byte
}

type signature struct {
	name, id string
	body     []byte
}

type note struct {
	text       string
	signatures []signature
}

type checkpoint struct {
	origin string
	size   int64
	root   [32]byte
	text   string
}

var strict64 = base64.StdEncoding.Strict()

func decode64(text string) ([]byte, error) {
	data, err := strict64.DecodeString(text)
	if err != nil || strict64.EncodeToString(data) != text {
		return nil, errors.New("not base64 of one spelling")
	}
	return data, nil
}

func goodName(name string) bool {
	if name == "" || !utf8.ValidString(name) {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool { return r == '+' || unicode.IsSpace(r) || unicode.IsControl(r) }) < 0
}

func parseKey(text string) (*key, error) {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 || !goodName(parts[0]) {
		return nil, errors.New("not a verifier key")
	}
	raw, err := decode64(parts[2])
	if err != nil || len(raw) < 1 {
		return nil, errors.New("not a verifier key")
	}
	k := &key{text: text, name: parts[0], kind: raw[0], public: raw[1:]}
	lengths := map[byte]int{typeEd25519: 32, typeCosigner: 32, typeMLDSA: mldsaPublic}
	sum := sha256.Sum256(append([]byte(k.name+"\n"), raw...))
	k.id = string(sum[:4])
	if want, known := lengths[k.kind]; !known || len(k.public) != want || hex.EncodeToString(sum[:4]) != parts[1] {
		return nil, errors.New("not a verifier key")
	}
	return k, nil
}

func parseNumber(text string) (int64, error) {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil || number < 0 || strconv.FormatInt(number, 10) != text {
		return 0, errors.New("not a number")
	}
	return number, nil
}

func goodText(data []byte) bool {
	if !utf8.Valid(data) {
		return false
	}
	return bytes.IndexFunc(data, func(r rune) bool { return r < 0x20 && r != '\n' }) < 0
}

func parseNote(data []byte) (*note, error) {
	split := bytes.LastIndex(data, []byte("\n\n"))
	if len(data) > maxNote || !goodText(data) || split < 0 || data[len(data)-1] != '\n' {
		return nil, errors.New("not a signed note")
	}
	found := &note{text: string(data[:split+1])}
	lines := strings.Split(string(data[split+2:]), "\n")
	for _, line := range lines[:len(lines)-1] {
		parts := strings.Split(line, " ")
		if len(parts) != 3 || parts[0] != "—" || !goodName(parts[1]) {
			return nil, errors.New("not a signature line")
		}
		raw, err := decode64(parts[2])
		if err != nil || len(raw) < 5 {
			return nil, errors.New("not a signature line")
		}
		found.signatures = append(found.signatures, signature{parts[1], string(raw[:4]), raw[4:]})
	}
	if n := len(found.signatures); n < 1 || n > maxSignatures {
		return nil, errors.New("not 1 to 100 signatures")
	}
	return found, nil
}

func parseCheckpoint(text string) (*checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" || !goodName(lines[0]) || len(lines[0]) > 255 {
		return nil, errors.New("not a checkpoint")
	}
	size, err := parseNumber(lines[1])
	root, other := decode64(lines[2])
	if err != nil || other != nil || len(root) != 32 {
		return nil, errors.New("not a checkpoint")
	}
	found := &checkpoint{origin: lines[0], size: size, text: text}
	copy(found.root[:], root)
	if size == 0 && found.root != sha256.Sum256(nil) {
		return nil, errors.New("another root of the empty tree")
	}
	return found, nil
}

// signed says whether one signature of a checkpoint is its key's: of ML-DSA-44 only the form is looked at.
func (c *checkpoint) signed(k *key, body []byte) bool {
	if k.kind == typeEd25519 {
		return verifyEd25519(k.public, []byte(c.text), body)
	}
	if len(body) < 8 || body[0]&0x80 != 0 {
		return false
	}
	seconds, rest := binary.BigEndian.Uint64(body), body[8:]
	if k.kind == typeMLDSA {
		return len(rest) == mldsaSigned
	}
	return verifyEd25519(k.public, []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", seconds, c.text)), rest)
}

// openCheckpoint opens a checkpoint under given keys (SPEC §10.5).
func openCheckpoint(data []byte, keys []*key, origin string) (*checkpoint, error) {
	n, err := parseNote(data)
	if err != nil {
		return nil, err
	}
	found, err := parseCheckpoint(n.text)
	if err != nil {
		return nil, err
	}
	if found.origin != origin {
		return nil, errors.New("the checkpoint is of another log")
	}
	wanted, got := map[byte]bool{}, map[byte]bool{}
	for _, k := range logKeys(keys, origin) {
		wanted[k.kind] = true
	}
	for _, s := range n.signatures {
		for _, k := range keys {
			if k.name != s.name || k.id != s.id {
				continue
			}
			if !found.signed(k, s.body) {
				return nil, errors.New("a signature of a known key does not verify")
			}
			if k.name == origin {
				got[k.kind] = true
			}
		}
	}
	if len(wanted) == 0 {
		return nil, errors.New("no key of this log was given")
	}
	for kind := range wanted {
		if !got[kind] {
			return nil, fmt.Errorf("no signature of type %d by a known key of the log", kind)
		}
	}
	return found, nil
}

func logKeys(keys []*key, origin string) (found []*key) {
	for _, k := range keys {
		if k.name == origin && k.kind != typeCosigner {
			found = append(found, k)
		}
	}
	return found
}

// signedBytes verifies a raw signature of a log key; of ML-DSA-44 the length only.
func signedBytes(k *key, message, body []byte) bool {
	if k.kind == typeMLDSA {
		return len(body) == mldsaSigned
	}
	return verifyEd25519(k.public, message, body)
}

// Ed25519 of SPEC §10.5: crypto/ed25519 is without cofactor, has S below the order and compares R byte by byte,
// so R is canonical. What it does not look at is the order of the key and of R.

var (
	prime, _  = new(big.Int).SetString("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed", 16)
	order, _  = new(big.Int).SetString("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed", 16)
	curveD, _ = new(big.Int).SetString("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3", 16)
	eight     = big.NewInt(8)
	goodKeys  = map[string]bool{}
)

func verifyEd25519(public, message, body []byte) bool {
	if len(body) != 64 || len(public) != 32 {
		return false
	}
	good, known := goodKeys[string(public)]
	if !known {
		y, x := decodePoint(public)
		good = x != nil && isNeutral(multiply(order, x, y)) && !isNeutral(multiply(eight, x, y))
		goodKeys[string(public)] = good
	}
	if !good || !ed25519.Verify(public, message, body) {
		return false
	}
	y, x := decodePoint(body[:32])
	return x != nil && !isNeutral(multiply(eight, x, y))
}

func mod(v *big.Int) *big.Int { return v.Mod(v, prime) }

func times(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }

// decodePoint returns y and x of a canonical encoding, x nil where it is none.
func decodePoint(raw []byte) (y, x *big.Int) {
	turned := make([]byte, 32)
	for at := range raw {
		turned[31-at] = raw[at]
	}
	sign := uint(turned[0] >> 7)
	turned[0] &= 0x7f
	y = new(big.Int).SetBytes(turned)
	if y.Cmp(prime) >= 0 {
		return y, nil
	}
	one, square := big.NewInt(1), times(y, y)
	u := mod(new(big.Int).Sub(square, one))
	v := mod(new(big.Int).Add(times(curveD, square), one))
	x = new(big.Int).ModSqrt(times(u, new(big.Int).ModInverse(v, prime)), prime)
	if x == nil || x.Sign() == 0 && sign == 1 {
		return y, nil
	}
	if x.Bit(0) != sign {
		x.Sub(prime, x)
	}
	return y, x
}

// point has the coordinates X, Y, Z, T of RFC 8032 §5.1.4.
type point [4]*big.Int

func add(p, q point) point {
	sub := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Sub(a, b)) }
	sum := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Add(a, b)) }
	a := times(sub(p[1], p[0]), sub(q[1], q[0]))
	b := times(sum(p[1], p[0]), sum(q[1], q[0]))
	c := times(times(p[3], q[3]), sum(curveD, curveD))
	d := times(sum(p[2], p[2]), q[2])
	e, f, g, h := sub(b, a), sub(d, c), sum(d, c), sum(b, a)
	return point{times(e, f), times(g, h), times(f, g), times(e, h)}
}

func multiply(by *big.Int, x, y *big.Int) point {
	p := point{x, y, big.NewInt(1), times(x, y)}
	found := point{new(big.Int), big.NewInt(1), big.NewInt(1), new(big.Int)}
	for at := by.BitLen() - 1; at >= 0; at-- {
		found = add(found, found)
		if by.Bit(at) == 1 {
			found = add(found, p)
		}
	}
	return found
}

func isNeutral(p point) bool { return p[0].Sign() == 0 && p[1].Cmp(p[2]) == 0 }
