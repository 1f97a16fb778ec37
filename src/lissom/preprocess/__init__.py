"""Operations between a decoded picture and what a network is given."""
