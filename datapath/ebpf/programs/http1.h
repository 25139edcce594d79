/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head of an HTTP/1 request, whole and in plain form: a target that is a path, HTTP/1.0 or 1.1, one Host field.
 * As with tls.h, all else is for user space, and http1.py reads alike whatever is read here.
 */
#ifndef PODLANE_HTTP1_H
#define PODLANE_HTTP1_H

#include "tls.h"

#define MOST_METHOD 32

enum { METHOD, SPACES, TARGET, VERSION, LINE_END, LINE };

static __always_inline int in_token(__u8 byte)
{
	if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z')
		return 1;
	if (byte >= '0' && byte <= '9')
		return 1;
	return byte == '-' || byte == '_' || byte == '.' || byte == '!' || byte == '#' || byte == '$' || byte == '%' ||
	       byte == '&' || byte == '\'' || byte == '*' || byte == '+' || byte == '^' || byte == '`' || byte == '|' ||
	       byte == '~';
}

static __always_inline int is_host(struct scratch *scratch, __u32 at)
{
	return (BYTE(scratch, at) | 0x20) == 'h' && (BYTE(scratch, at + 1) | 0x20) == 'o' &&
	       (BYTE(scratch, at + 2) | 0x20) == 's' && (BYTE(scratch, at + 3) | 0x20) == 't' &&
	       BYTE(scratch, at + 4) == ':';
}

/* A byte that matters, with up to seven before it that do not. Returns 1 at the end, or where the form is not plain. Calls
 * are what takes time, so there are to be few of them. */
static long head_step(__u32 i, struct round *round)
{
	struct scratch *scratch = round->scratch;
	struct head *head = &scratch->head;
	__u32 at = head->at, skipped = 0;
	__u64 word = WORD_AT(scratch, at);
	__u8 byte;

	if (head->phase == LINE)
		skipped = bytes_before(ZERO_IN(word) | ZERO_IN(word ^ LOW_BITS * '\n') | ZERO_IN(word ^ LOW_BITS * '\r'));
	else if (head->phase == TARGET)
		skipped = bytes_before(BELOW_IN(word, ' ' + 1) | ZERO_IN(word ^ LOW_BITS * 0x7f));
	at += skipped;
	if (at >= head->length)
		return 1;
	if (skipped == 8) {
		head->at = at;
		return 0;
	}
	byte = BYTE(scratch, at);
	if (head->phase == LINE || head->phase == LINE_END) {
		if (byte == '\r' && at + 1 < head->length) {
			at++;
			byte = BYTE(scratch, at);
		}
		if (byte != '\n')
			return 1;
		at++;
		if (at >= head->length)
			return 1;
		byte = BYTE(scratch, at);
		if (byte == '\n' || (byte == '\r' && at + 1 < head->length && BYTE(scratch, at + 1) == '\n')) {
			head->whole = 1;
			return 1;
		}
		if (!byte || byte == '\r' || byte == ' ' || byte == '\t') /* what goes on is folded */
			return 1;
		if (is_host(scratch, at)) {
			head->hosts++;
			head->host = at + 5;
		}
		head->phase = LINE;
	} else if (head->phase == METHOD) {
		if (byte == ' ' && head->method) {
			head->phase = SPACES;
		} else if (!in_token(byte) || ++head->method > MOST_METHOD) {
			return 1;
		}
	} else if (head->phase == SPACES) {
		if (byte == '/' || byte == '*')
			head->phase = TARGET;
		else if (byte != ' ')
			return 1;
	} else if (head->phase == TARGET) {
		if (byte != ' ')
			return 1;
		head->phase = VERSION;
	} else if (byte != ' ') {
		if (byte != 'H' || BYTE(scratch, at + 1) != 'T' || BYTE(scratch, at + 2) != 'T' ||
		    BYTE(scratch, at + 3) != 'P' || BYTE(scratch, at + 4) != '/' || BYTE(scratch, at + 5) != '1' ||
		    BYTE(scratch, at + 6) != '.' || (BYTE(scratch, at + 7) & 0xfe) != '0')
			return 1;
		at += 7;
		head->phase = LINE_END;
	}
	head->at = at + 1;
	return 0;
}

enum { BEFORE, NAME, PORT, AFTER };

/* One byte of the Host field's value, with up to seven of a name before it. */
static long host_byte(__u32 i, struct round *round)
{
	struct host *host = &round->scratch->host;
	__u64 word = WORD_AT(round->scratch, host->at);
	__u32 at = host->at, skipped;
	__u8 byte;

	if (host->phase == NAME) {
		skipped = bytes_before(BELOW_IN(word, ' ' + 1) | ZERO_IN(word ^ LOW_BITS * ':'));
		at += skipped;
		host->length += skipped;
		if (skipped == 8) {
			host->at = at;
			return 0;
		}
	}
	host->at = at + 1;
	byte = BYTE(round->scratch, at);
	if (byte == '\r' || byte == '\n') {
		host->good = host->phase != BEFORE;
		return 1;
	}
	if (byte == ' ' || byte == '\t') {
		if (host->phase != BEFORE)
			host->phase = AFTER;
	} else if (host->phase == BEFORE) {
		if (byte == ':')
			return 1;
		host->name = at;
		host->length = 1;
		host->phase = NAME;
	} else if (host->phase == NAME) {
		if (byte == ':')
			host->phase = PORT;
		else
			host->length++;
	} else if (host->phase == AFTER || byte < '0' || byte > '9') {
		return 1;
	}
	return 0;
}

/* Returns 1, and where the name is, if the scratch memory begins with such a head. */
__noinline int read_request(__u32 length, struct found_names *found)
{
	struct round round = { scratch_memory() };
	struct scratch *scratch = round.scratch;
	struct head *head;
	struct host *host;

	if (!scratch || !found)
		return 0;
	head = &scratch->head;
	__builtin_memset(head, 0, sizeof(*head));
	head->length = length;
	bpf_loop(MOST_BYTES, head_step, &round, 0);
	if (!head->whole || head->hosts != 1)
		return 0;
	/* The target of CONNECT is the authority. */
	if (head->method == 7 && BYTE(scratch, 0) == 'C' && BYTE(scratch, 1) == 'O' && BYTE(scratch, 2) == 'N' &&
	    BYTE(scratch, 3) == 'N' && BYTE(scratch, 4) == 'E' && BYTE(scratch, 5) == 'C' && BYTE(scratch, 6) == 'T')
		return 0;
	host = &scratch->host;
	__builtin_memset(host, 0, sizeof(*host));
	host->at = head->host;
	bpf_loop(2 * MOST_NAME, host_byte, &round, 0);
	if (!host->good)
		return 0;
	found->name = host->name;
	found->name_length = host->length;
	return 1;
}

#endif
