/*! attnviz, Apache-2.0. Holds Leaflet 1.9.4, (c) 2010-2023 Volodymyr Agafonkin, (c) 2010-2011 CloudMade, BSD-2-Clause
(github.com/Leaflet/Leaflet), and Preact, (c) 2015-present Jason Miller, MIT (github.com/preactjs/preact). */
var e={render(){}};export{e as default};
