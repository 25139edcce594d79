import { expect, it } from 'vitest';
import { type Budget, bytesOf, bytesText, formOf, NEW_BUDGET, standOf, wishIn, wishOf } from './model';

const BUDGET: Budget = {
  name: 'backup',
  version: 7,
  bytes: 500 * 2 ** 30,
  period: 'month',
  policy: 'web',
  class: 'backup',
  direction: 'egress',
  used: 412 * 2 ** 30,
  share: 0.824,
  until: 1_796_083_200,
  used_up: 1_795_895_580,
};

it.each([
  ['500GiB', 500 * 2 ** 30],
  [' 1.5 tb ', 1.5e12],
  ['20gb', 20e9],
  ['7kB', 7000],
  ['3KiB', 3072],
  ['12B', 12],
  ['0.1GB', 1e8],
])('reads %s as bytes', (text, bytes) => expect(bytesOf(text)).toBe(bytes));

it.each(['', '500', 'much', '-1GB', '5 GiB more', '1e3MB', '5ib', '5Mbit'])('reads %j as no bytes', (text) =>
  expect(bytesOf(text)).toBeUndefined(),
);

it('writes bytes so that they are read as the same', () => {
  expect([500 * 2 ** 30, 5e11, 1536, 1, 2 ** 53 - 1].map(bytesText)).toEqual([
    '500GiB',
    '500GB',
    '1536B',
    '1B',
    '9007199254740991B',
  ]);
  for (const bytes of [1, 1000, 1024, 1e12 + 1, 3 * 2 ** 40, 2 ** 53 - 1]) {
    expect(bytesOf(bytesText(bytes))).toBe(bytes);
  }
});

it('has what it is sent again, whatever a form makes of it', () => {
  expect(wishIn(formOf(wishOf(BUDGET)))).toEqual(wishOf(BUDGET));
  expect(wishIn(NEW_BUDGET)).toBeUndefined();
  expect(wishIn({ ...NEW_BUDGET, size: '1GB', scope: { policy: ' web ' } })).toEqual({
    bytes: 1e9,
    period: 'month',
    policy: 'web',
    class: '',
    direction: '',
  });
});

it('has one word for how a budget stands', () => {
  expect(standOf(BUDGET)).toBe('short');
  expect(standOf({ ...BUDGET, used_up: null })).toBe('lasts');
  expect(standOf({ ...BUDGET, used: BUDGET.bytes, used_up: null })).toBe('over');
  expect(standOf({ ...BUDGET, used: 0, used_up: null })).toBe('lasts');
});
