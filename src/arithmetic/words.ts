// The words of the problems: names, things and ways to say that something is added or taken away. `#` stands for a
// number, `@` for another name.

export const NAMES = ['Ada', 'Ben', 'Cleo', 'Dan', 'Eva', 'Finn', 'Gus', 'Ida', 'Jon', 'Kim', 'Leo', 'Mia'] as const;

export const THINGS = [
  'apples',
  'beads',
  'books',
  'cards',
  'coins',
  'eggs',
  'nuts',
  'pens',
  'shells',
  'stamps',
] as const;

export interface Scene {
  /** The opening sentence: who, how many, of what (`%`). */
  opening: string;
  gains: readonly string[];
  losses: readonly string[];
  question: string;
}

/** `$` stands for the hero, `%` for the thing. */
export const SCENES: readonly Scene[] = [
  {
    opening: '$ has # %.',
    gains: ['$ finds # more.', '$ buys # more.', '@ gives $ #.', '$ gets # from @.'],
    losses: ['$ loses #.', '$ sells #.', '$ gives # to @.', '@ takes #.'],
    question: 'How many % does $ have now?',
  },
  {
    opening: 'A shop has # %.',
    gains: ['It gets # more.', '@ brings #.', 'A truck brings # more.'],
    losses: ['It sells #.', '@ buys #.', 'It throws away #.'],
    question: 'How many % are left?',
  },
  {
    opening: 'There are # % in a box.',
    gains: ['$ puts in #.', '@ adds #.', '$ adds # more.'],
    losses: ['$ takes out #.', '@ takes #.', '$ removes #.'],
    question: 'How many % are in the box?',
  },
];
